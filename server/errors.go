package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"cairn/blockstore"
	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
	"cairn/server/job"
)

// errorDomain is the domain of every ErrorInfo.
const errorDomain = "cairn"

// Error is an error as a client will see it. Handlers make it with newError or
// one of the err… functions; everything else that they return is looked up in
// classify.
type Error struct {
	Code    codes.Code // from the reason, unless changed with code
	Reason  pb.ErrorReason
	Message string // what was wrong with which value, and what to do
	Meta    map[string]string
	Fields  []*errdetails.BadRequest_FieldViolation
	// Retry, if not 0, says that the same call can succeed after that time.
	Retry time.Duration
	cause error
}

func (e *Error) Error() string { return e.Message }
func (e *Error) Unwrap() error { return e.cause }

// newError makes an error with the code that belongs to its reason.
func newError(reason pb.ErrorReason, format string, args ...any) *Error {
	return &Error{Code: codeOf(reason), Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// with adds a variable of the message.
func (e *Error) with(key, value string) *Error {
	if e.Meta == nil {
		e.Meta = make(map[string]string)
	}
	e.Meta[key] = value
	return e
}

// field names the field that is wrong, as BadRequest has it.
func (e *Error) field(path, format string, args ...any) *Error {
	e.Fields = append(e.Fields, &errdetails.BadRequest_FieldViolation{Field: path, Description: fmt.Sprintf(format, args...)})
	return e
}

// code replaces the code, for reasons that occur with several.
func (e *Error) code(c codes.Code) *Error { e.Code = c; return e }

// retry says that the same call can succeed after d.
func (e *Error) retry(d time.Duration) *Error { e.Retry = d; return e }

// because keeps the error below, for the log.
func (e *Error) because(err error) *Error { e.cause = err; return e }

// GRPCStatus makes status.FromError and the gRPC library see the status.
func (e *Error) GRPCStatus() *status.Status {
	details := []protoadapt.MessageV1{protoadapt.MessageV1Of(&errdetails.ErrorInfo{
		Domain: errorDomain, Reason: e.Reason.String(), Metadata: e.Meta,
	})}
	if len(e.Fields) > 0 {
		details = append(details, protoadapt.MessageV1Of(&errdetails.BadRequest{FieldViolations: e.Fields}))
	}
	if e.Retry > 0 {
		details = append(details, protoadapt.MessageV1Of(&errdetails.RetryInfo{RetryDelay: durationpb.New(e.Retry)}))
	}
	st, err := status.New(e.Code, e.Message).WithDetails(details...)
	if err != nil { // only for code OK, which no reason has
		return status.New(codes.Internal, e.Message)
	}
	return st
}

// codeOf gives the code of a reason, as types.proto has it.
func codeOf(r pb.ErrorReason) codes.Code {
	switch r {
	case pb.ErrorReason_ERROR_REASON_INVALID_FIELD,
		pb.ErrorReason_ERROR_REASON_INVALID_NAME,
		pb.ErrorReason_ERROR_REASON_INVALID_PAGE_TOKEN,
		pb.ErrorReason_ERROR_REASON_UNKNOWN_REGION,
		pb.ErrorReason_ERROR_REASON_DIGEST_MISMATCH,
		pb.ErrorReason_ERROR_REASON_MALFORMED_BLOCK,
		pb.ErrorReason_ERROR_REASON_WRONG_BLOCK_LENGTH,
		pb.ErrorReason_ERROR_REASON_ZERO_BLOCK,
		pb.ErrorReason_ERROR_REASON_BATCH_TOO_LARGE,
		pb.ErrorReason_ERROR_REASON_DISK_MAP_INVALID:
		return codes.InvalidArgument
	case pb.ErrorReason_ERROR_REASON_REQUEST_ID_REUSED,
		pb.ErrorReason_ERROR_REASON_ALREADY_EXISTS,
		pb.ErrorReason_ERROR_REASON_MACHINE_ALREADY_PROTECTED:
		return codes.AlreadyExists
	case pb.ErrorReason_ERROR_REASON_ETAG_MISMATCH,
		pb.ErrorReason_ERROR_REASON_JOB_LEASE_LOST:
		return codes.Aborted
	case pb.ErrorReason_ERROR_REASON_NOT_IMPLEMENTED:
		return codes.Unimplemented
	case pb.ErrorReason_ERROR_REASON_PERMISSION_DENIED:
		return codes.PermissionDenied
	case pb.ErrorReason_ERROR_REASON_VAULT_NOT_FOUND,
		pb.ErrorReason_ERROR_REASON_POLICY_NOT_FOUND,
		pb.ErrorReason_ERROR_REASON_HOST_NOT_FOUND,
		pb.ErrorReason_ERROR_REASON_MACHINE_NOT_FOUND,
		pb.ErrorReason_ERROR_REASON_PROTECTED_ITEM_NOT_FOUND,
		pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND,
		pb.ErrorReason_ERROR_REASON_JOB_NOT_FOUND,
		pb.ErrorReason_ERROR_REASON_DISK_NOT_FOUND,
		pb.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND,
		pb.ErrorReason_ERROR_REASON_UPLOAD_NOT_FOUND:
		return codes.NotFound
	case pb.ErrorReason_ERROR_REASON_DATA_CORRUPT:
		return codes.DataLoss
	case pb.ErrorReason_ERROR_REASON_STORE_FULL:
		return codes.ResourceExhausted
	case pb.ErrorReason_ERROR_REASON_STORE_LOCKED,
		pb.ErrorReason_ERROR_REASON_STORE_UNAVAILABLE,
		pb.ErrorReason_ERROR_REASON_AGENT_UNREACHABLE:
		return codes.Unavailable
	case pb.ErrorReason_ERROR_REASON_REVISION_UNAVAILABLE:
		return codes.OutOfRange
	case pb.ErrorReason_ERROR_REASON_CANCELLED:
		return codes.Canceled
	case pb.ErrorReason_ERROR_REASON_INTERNAL:
		return codes.Internal
	default:
		return codes.FailedPrecondition
	}
}

// classify turns any error into the one that the client sees. It is the only
// place that knows the sentinels of the packages below.
func classify(err error) *Error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, blockstore.ErrNewerFormat):
		return newError(pb.ErrorReason_ERROR_REASON_STORE_TOO_NEW, "%v", err).because(err)
	case errors.Is(err, blockstore.ErrLocked):
		return newError(pb.ErrorReason_ERROR_REASON_STORE_LOCKED, "%v", err).because(err).retry(5 * time.Second)
	case errors.Is(err, blockstore.ErrReadOnly), errors.Is(err, blockstore.ErrFailed):
		return newError(pb.ErrorReason_ERROR_REASON_STORE_READ_ONLY, "%v", err).because(err)
	case errors.Is(err, blockstore.ErrFull):
		return newError(pb.ErrorReason_ERROR_REASON_STORE_FULL, "%v", err).because(err)
	case errors.Is(err, blockstore.ErrNotVault), errors.Is(err, blockstore.ErrClosed):
		return newError(pb.ErrorReason_ERROR_REASON_STORE_UNAVAILABLE, "%v", err).because(err)
	case errors.Is(err, blockstore.ErrCorrupt):
		return newError(pb.ErrorReason_ERROR_REASON_DATA_CORRUPT, "%v", err).because(err)
	case errors.Is(err, blockstore.ErrBlockMissing):
		return newError(pb.ErrorReason_ERROR_REASON_BLOCK_MISSING, "%v", err).because(err)
	case errors.Is(err, catalog.ErrFull):
		return newError(pb.ErrorReason_ERROR_REASON_STORE_FULL, "%v; make room on that file system", err).because(err)
	case errors.Is(err, catalog.ErrCorrupt):
		return newError(pb.ErrorReason_ERROR_REASON_DATA_CORRUPT, "%v", err).because(err)
	}
	if e := jobError(err); e != nil {
		return e
	}
	switch {
	case errors.Is(err, context.Canceled):
		return newError(pb.ErrorReason_ERROR_REASON_CANCELLED, "the call was cancelled").because(err)
	case errors.Is(err, context.DeadlineExceeded):
		return newError(pb.ErrorReason_ERROR_REASON_CANCELLED, "the call's deadline passed").
			code(codes.DeadlineExceeded).because(err)
	}
	return newError(pb.ErrorReason_ERROR_REASON_INTERNAL, "internal error; the server's log says more").because(err)
}

// jobError is classify for the errors of package job; nil for all others.
func jobError(err error) *Error {
	var busy *job.BusyError
	var state *job.StateError
	switch {
	case errors.As(err, &busy):
		return newError(pb.ErrorReason_ERROR_REASON_BACKUP_IN_PROGRESS,
			"%s of %q is under way already: %s; wait for it, or cancel it", busy.What(), busy.Item, busy.Job).
			with("protected_item", busy.Item).with("job", busy.Job)
	case errors.As(err, &state):
		return newError(pb.ErrorReason_ERROR_REASON_JOB_NOT_CANCELLABLE,
			"job %q cannot be cancelled: it is %s", state.Job, strings.TrimPrefix(state.State.String(), "JOB_STATE_")).
			with("name", state.Job).with("state", state.State.String())
	case errors.Is(err, job.ErrNotFound):
		return newError(pb.ErrorReason_ERROR_REASON_JOB_NOT_FOUND, "%v", err)
	case errors.Is(err, job.ErrLeaseLost):
		return newError(pb.ErrorReason_ERROR_REASON_JOB_LEASE_LOST, "%v", err)
	case errors.Is(err, job.ErrReplaced):
		return newError(pb.ErrorReason_ERROR_REASON_JOB_LEASE_LOST, "%v", err)
	case errors.Is(err, job.ErrRevision):
		return newError(pb.ErrorReason_ERROR_REASON_REVISION_UNAVAILABLE, "%v; watch again from revision 0", err)
	case errors.Is(err, job.ErrNoPoint):
		return classify(invalidField("state", "is %s, but the job has made no recovery point: commit its upload first", "COMPLETED"))
	case errors.Is(err, job.ErrCancelled):
		return newError(pb.ErrorReason_ERROR_REASON_CANCELLED, "%v", err)
	case errors.Is(err, job.ErrStopping):
		return newError(pb.ErrorReason_ERROR_REASON_INTERRUPTED, "%v; try again when it is back", err).
			code(codes.Unavailable).retry(time.Second)
	}
	return nil
}

// problemOf gives an error as part of a resource's state: of a failed job, say.
func problemOf(err error) *pb.Problem {
	e := classify(err)
	return &pb.Problem{Reason: e.Reason, Message: e.Message, Metadata: e.Meta}
}

// plural counts things in a message: "1 table", "1,200 tables".
func plural(n uint64, what string) string {
	if n != 1 {
		what += "s"
	}
	return humanize.Comma(int64(n)) + " " + what
}

// few names the first of several things in a message.
func few(names []string) string {
	if len(names) > 3 {
		return strings.Join(names[:3], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}
