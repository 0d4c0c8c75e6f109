package server

import (
	pb "cairn/proto/cairn/v1"
)

type blockService struct {
	pb.UnimplementedBlockServiceServer
	*Server
}
