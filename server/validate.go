package server

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
)

// fields collects what is wrong with the fields of a request, so that the
// answer names all of it. The zero value is ready. A handler parses and checks
// everything first, then asks err, and only then looks at any state.
type fields struct {
	violations []*errdetails.BadRequest_FieldViolation
	other      bool // a violation that is not about a name
}

// maxViolations bounds the answer to a request full of rubbish.
const maxViolations = 32

// add notes a violation of the field at path ("vault.labels"). The text says
// what is wrong with which value and what the rule is.
func (f *fields) add(path, format string, args ...any) {
	f.other = true
	f.addName(path, format, args...)
}

// addName is add for a malformed id or name.
func (f *fields) addName(path, format string, args ...any) {
	if len(f.violations) < maxViolations {
		f.violations = append(f.violations, &errdetails.BadRequest_FieldViolation{
			Field: path, Description: fmt.Sprintf(format, args...),
		})
	}
}

// err answers INVALID_ARGUMENT with all violations, or nil if there are none.
func (f *fields) err() error {
	if len(f.violations) == 0 {
		return nil
	}
	reason := pb.ErrorReason_ERROR_REASON_INVALID_NAME
	if f.other {
		reason = pb.ErrorReason_ERROR_REASON_INVALID_FIELD
	}
	first := f.violations[0]
	e := newError(reason, "%s: %s", first.Field, first.Description).with("field", first.Field)
	if n := len(f.violations) - 1; n > 0 {
		e.Message += fmt.Sprintf(" (and %d more)", n)
	}
	e.Fields = f.violations
	return e
}

// invalidField is the error for one wrong field.
func invalidField(path, format string, args ...any) error {
	var f fields
	f.add(path, format, args...)
	return f.err()
}

// quote quotes a value for a message, shortened to what a person can read.
func quote(s string) string {
	const most = 80
	if len(s) <= most {
		return strconv.Quote(s)
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return fmt.Sprintf("%s… (%d bytes)", strconv.Quote(s[:cut]), len(s))
}

// text checks free text of up to most characters.
func (f *fields) text(path, s string, most int) {
	switch n := utf8.RuneCountInString(s); {
	case !utf8.ValidString(s):
		f.add(path, "is not valid UTF-8")
	case n > most:
		f.add(path, "has %d characters; at most %d are allowed", n, most)
	default:
		for _, r := range s {
			if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
				f.add(path, "has the control character %U", r)
				return
			}
		}
	}
}

// between checks a number.
func (f *fields) between(path string, n, low, high int64) {
	if n < low || n > high {
		f.add(path, "is %d; it must be from %d to %d", n, low, high)
	}
}

// requestID checks a request_id.
func (f *fields) requestID(s string) { f.text("request_id", s, 64) }

// mask checks an update mask: not empty, and only paths out of allowed.
func (f *fields) mask(m *fieldmaskpb.FieldMask, allowed ...string) map[string]bool {
	set := make(map[string]bool)
	if len(m.GetPaths()) == 0 {
		f.add("update_mask", "must name at least one of %s", strings.Join(allowed, ", "))
	}
next:
	for _, p := range m.GetPaths() {
		for _, a := range allowed {
			if p == a {
				set[p] = true
				continue next
			}
		}
		f.add("update_mask", "%s cannot be updated; %s can", quote(p), strings.Join(allowed, ", "))
	}
	return set
}

// enum checks that a value is one of those that the enum has.
func enum[E interface {
	~int32
	fmt.Stringer
}](f *fields, path string, v E, names map[int32]string) {
	if _, ok := names[int32(v)]; !ok {
		f.add(path, "%d is no value of this enum", int32(v))
	}
}

// time checks a timestamp that may be absent.
func (f *fields) time(path string, t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	if err := t.CheckValid(); err != nil {
		f.add(path, "is no valid time: it must lie between the years 1 and 9999")
		return time.Time{}
	}
	return t.AsTime()
}

// duration checks a duration that may be absent, which means def.
func (f *fields) duration(path string, d *durationpb.Duration, low, high, def time.Duration) time.Duration {
	if d == nil {
		return def
	}
	v := d.AsDuration()
	if d.CheckValid() != nil || v < low || v > high {
		f.add(path, "is %v; it must be from %v to %v", v, low, high)
	}
	return v
}
