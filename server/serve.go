package server

import (
	"google.golang.org/grpc"

	pb "cairn/proto/cairn/v1"
)

// register adds all services of the API.
func (s *Server) register(r grpc.ServiceRegistrar) {
	pb.RegisterVaultServiceServer(r, &vaultService{Server: s})
	pb.RegisterPolicyServiceServer(r, &policyService{Server: s})
	pb.RegisterHostServiceServer(r, &hostService{Server: s})
	pb.RegisterProtectedItemServiceServer(r, &protectedItemService{Server: s})
	pb.RegisterRecoveryPointServiceServer(r, &recoveryPointService{Server: s})
	pb.RegisterJobServiceServer(r, &jobService{Server: s})
	pb.RegisterBlockServiceServer(r, &blockService{Server: s})
}
