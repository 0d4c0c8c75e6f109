package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc/codes"

	"cairn/client"
	cairnv1 "cairn/proto/cairn/v1"
)

// hinted is an error with advice.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

func hintf(err error, format string, args ...any) error {
	return hinted{err, fmt.Sprintf(format, args...)}
}

// printError says what failed and, if that is known, what to do.
func printError(w io.Writer, err error) {
	if errors.Is(err, context.Canceled) && client.Reason(err) == 0 {
		fmt.Fprintln(w, "cairn: interrupted")
		return
	}
	fmt.Fprintf(w, "cairn: %s\n", printable(text(err)))
	for _, v := range client.FieldViolations(err) {
		if !strings.Contains(text(err), v) {
			fmt.Fprintf(w, "  %s\n", v)
		}
	}
	if h := hint(err); h != "" {
		fmt.Fprintf(w, "hint: %s\n", h)
	}
}

// text is what an error says: of a call that failed, what the server said,
// without the words that gRPC puts around it.
func text(err error) string {
	msg := err.Error()
	// What gRPC says of a server that is not there ends in the system's words.
	if _, why, ok := strings.Cut(msg, "Error while dialing: "); ok && unreachable(err) {
		return "no connection to the server: " + strings.TrimSuffix(why, `"`)
	}
	if inner := client.Message(err); inner != msg && inner != "" {
		if i := strings.Index(msg, "rpc error: code = "); i >= 0 {
			msg = msg[:i] + inner
		}
	}
	return msg
}

// hints has advice for reasons whose messages cannot give it, because the
// server does not know the command line.
var hints = map[cairnv1.ErrorReason]string{
	cairnv1.ErrorReason_ERROR_REASON_VAULT_NOT_FOUND:          "list vaults with: cairn vault list",
	cairnv1.ErrorReason_ERROR_REASON_POLICY_NOT_FOUND:         "list policies with: cairn policy list --vault VAULT",
	cairnv1.ErrorReason_ERROR_REASON_HOST_NOT_FOUND:           "list hosts with: cairn host list",
	cairnv1.ErrorReason_ERROR_REASON_RESTORE_UNSUPPORTED:      "restore its disks with: cairn restore disk POINT --to DIR",
	cairnv1.ErrorReason_ERROR_REASON_MACHINE_NOT_FOUND:        "list machines with: cairn machine list",
	cairnv1.ErrorReason_ERROR_REASON_PROTECTED_ITEM_NOT_FOUND: "list protected items with: cairn item list",
	cairnv1.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND: "list recovery points with: cairn point list ITEM",
	cairnv1.ErrorReason_ERROR_REASON_JOB_NOT_FOUND:            "list jobs with: cairn job list",
	cairnv1.ErrorReason_ERROR_REASON_BACKUP_IN_PROGRESS:       "watch it with: cairn job watch",
	cairnv1.ErrorReason_ERROR_REASON_RECLAIM_IN_PROGRESS:      "watch it with: cairn job watch",
	cairnv1.ErrorReason_ERROR_REASON_POLICY_IN_USE:            "give its items another with: cairn item update ITEM --policy POLICY",
	cairnv1.ErrorReason_ERROR_REASON_PROTECTION_STOPPED:       "take it up again with: cairn item resume ITEM",
	cairnv1.ErrorReason_ERROR_REASON_PROTECTED_ITEM_DELETED:   "bring it back with: cairn item undelete ITEM",
	cairnv1.ErrorReason_ERROR_REASON_NEWEST_RECOVERY_POINT:    "make a newer one with: cairn backup ITEM; or delete all with: cairn item stop ITEM --delete-data",
	cairnv1.ErrorReason_ERROR_REASON_UNKNOWN_REGION:           "leave --region out to use the server's own",
	cairnv1.ErrorReason_ERROR_REASON_DATA_CORRUPT:             "see how far the damage goes with: cairn point verify POINT",
	cairnv1.ErrorReason_ERROR_REASON_STORE_FULL:               "free space on the server's disk; reading and restoring still work",
}

func hint(err error) string {
	var h hinted
	if errors.As(err, &h) {
		return h.hint
	}
	if s := hints[client.Reason(err)]; s != "" {
		return s
	}
	if unreachable(err) {
		return "is cairnd running, and is --server (or CAIRN_SERVER) its address?"
	}
	return ""
}

// unreachable says that no server answered.
func unreachable(err error) bool {
	return client.Code(err) == codes.Unavailable && client.Reason(err) == 0
}
