package server

import (
	pb "cairn/proto/cairn/v1"
)

type hostService struct {
	pb.UnimplementedHostServiceServer
	*Server
}
