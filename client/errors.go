package client

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	cairnv1 "cairn/proto/cairn/v1"
)

// errorDomain is the domain of the service's own ErrorInfo.
const errorDomain = "cairn"

// Reason is the published reason of an error that a call returned, or
// UNSPECIFIED for nil and for errors that have none, such as a server that
// cannot be reached.
func Reason(err error) cairnv1.ErrorReason {
	if info := errorInfo(err); info != nil {
		return cairnv1.ErrorReason(cairnv1.ErrorReason_value[info.GetReason()])
	}
	return cairnv1.ErrorReason_ERROR_REASON_UNSPECIFIED
}

// Metadata has the variables of a call's error message; nil if there are none.
func Metadata(err error) map[string]string { return errorInfo(err).GetMetadata() }

// Message is what a call's error says, without gRPC's framing.
func Message(err error) string {
	if st := grpcStatus(err); st != nil {
		return st.Message()
	}
	if err == nil {
		return ""
	}
	return err.Error()
}

// FieldViolations lists the wrong fields of a refused request, as
// "field: what is wrong".
func FieldViolations(err error) []string {
	st := grpcStatus(err)
	if st == nil {
		return nil
	}
	var out []string
	for _, d := range st.Details() {
		if br, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range br.GetFieldViolations() {
				out = append(out, v.GetField()+": "+v.GetDescription())
			}
		}
	}
	return out
}

// Code is the gRPC code of an error; OK for nil, UNKNOWN for errors that are
// not from a call.
func Code(err error) codes.Code {
	switch {
	case err == nil:
		return codes.OK
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	}
	if st := grpcStatus(err); st != nil {
		return st.Code()
	}
	return codes.Unknown
}

// Transient says whether the same work may succeed a moment later: the server
// was not there, or went away.
func Transient(err error) bool {
	switch Code(err) {
	case codes.Unavailable:
		switch Reason(err) {
		case cairnv1.ErrorReason_ERROR_REASON_UNSPECIFIED, cairnv1.ErrorReason_ERROR_REASON_INTERRUPTED:
			return true
		}
	case codes.Internal, codes.Canceled:
		// A connection cut in the middle of a stream can surface as these; the
		// service's own errors carry a reason.
		return grpcStatus(err) != nil && errorInfo(err) == nil && strings.Contains(Message(err), "stream terminated")
	}
	return false
}

func grpcStatus(err error) *status.Status {
	if err == nil {
		return nil
	}
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) {
		return s.GRPCStatus()
	}
	return nil
}

func errorInfo(err error) *errdetails.ErrorInfo {
	st := grpcStatus(err)
	if st == nil {
		return nil
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == errorDomain {
			return info
		}
	}
	return nil
}
