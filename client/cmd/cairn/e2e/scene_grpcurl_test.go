//go:build e2e

package e2e

import (
	"os/exec"
	"strings"
	"testing"
)

// grpcurl, which knows nothing of Cairn, finds by reflection what there is and
// calls it, over TCP.
func TestGrpcurl(t *testing.T) {
	w := newWorld(t)
	addr := w.listening()
	if _, err := exec.LookPath("grpcurl"); err != nil {
		t.Fatalf("%v (go install github.com/fullstorydev/grpcurl/cmd/grpcurl, as .ci/test does)", err)
	}
	grpcurl := func(status int, args ...string) string {
		t.Helper()
		r := w.tryExe("grpcurl", append([]string{"-plaintext"}, args...)...)
		if r.status != status {
			t.Fatalf("grpcurl %q: status %d, want %d: %s%s", args, r.status, status, r.stdout, r.stderr)
		}
		return r.stdout + r.stderr
	}
	has := func(out string, words ...string) {
		t.Helper()
		for _, word := range words {
			if !strings.Contains(out, word) {
				t.Errorf("no %q in:\n%s", word, out)
			}
		}
	}
	out := grpcurl(0, addr, "list")
	for _, s := range []string{"Audit", "Block", "Host", "Job", "Policy", "ProtectedItem", "RecoveryPoint", "Vault"} {
		has(out, "cairn.v1."+s+"Service\n")
	}
	has(out, "grpc.health.v1.Health\n")
	has(grpcurl(0, addr, "list", "cairn.v1.VaultService"), "cairn.v1.VaultService.CreateVault\n", "cairn.v1.VaultService.ReclaimVault\n")
	has(grpcurl(0, addr, "describe", "cairn.v1.VaultService.CreateVault"), "rpc CreateVault ( .cairn.v1.CreateVaultRequest ) returns ( .cairn.v1.CreateVaultResponse );")
	has(grpcurl(0, addr, "describe", "cairn.v1.SoftDelete"), "int32 retention_days = 2;")
	proved(t, "services, calls and messages are described by reflection")

	out = grpcurl(0, "-d", `{"parent": "subscriptions/default", "vault_id": "curled", "vault": {"soft_delete": {"retention_days": 30}}}`,
		addr, "cairn.v1.VaultService/CreateVault")
	has(out, `"name": "subscriptions/default/vaults/curled"`, `"redundancy": "REDUNDANCY_LOCAL"`)
	has(grpcurl(0, "-d", `{"name": "subscriptions/default/vaults/curled"}`, addr, "cairn.v1.VaultService/GetVault"), `"retentionDays": 30`)
	// grpcurl exits with 64 plus the code.
	out = grpcurl(64+5, "-format-error", "-d", `{"name": "subscriptions/default/vaults/other"}`, addr, "cairn.v1.VaultService/GetVault")
	has(out, `"reason": "ERROR_REASON_VAULT_NOT_FOUND"`, `"domain": "cairn"`)
	out = grpcurl(64+3, "-format-error", "-d", `{"parent": "subscriptions/default", "vault_id": "x", "vault": {"block_size": 1000}}`, addr, "cairn.v1.VaultService/CreateVault")
	has(out, `"reason": "ERROR_REASON_INVALID_FIELD"`, `"field": "vault.block_size"`)
	has(grpcurl(0, addr, "grpc.health.v1.Health/Check"), `"status": "SERVING"`)
	proved(t, "vaults are made and read with grpcurl; errors come with their reasons and fields")
}
