package server

import (
	pb "cairn/proto/cairn/v1"
)

type protectedItemService struct {
	pb.UnimplementedProtectedItemServiceServer
	*Server
}
