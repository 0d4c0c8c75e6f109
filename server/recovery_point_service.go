package server

import (
	pb "cairn/proto/cairn/v1"
)

type recoveryPointService struct {
	pb.UnimplementedRecoveryPointServiceServer
	*Server
}
