package server

import (
	pb "cairn/proto/cairn/v1"
)

type vaultService struct {
	pb.UnimplementedVaultServiceServer
	*Server
}
