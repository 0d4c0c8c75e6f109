package server

import (
	pb "cairn/proto/cairn/v1"
)

type jobService struct {
	pb.UnimplementedJobServiceServer
	*Server
}
