package server

import (
	pb "cairn/proto/cairn/v1"
)

type policyService struct {
	pb.UnimplementedPolicyServiceServer
	*Server
}
