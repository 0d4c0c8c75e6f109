package server

import (
	"bytes"
	"math"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// spoiled is a request in which one field was changed.
type spoiled struct {
	field protoreflect.FieldDescriptor
	path  string // of the field, without indexes: "policy.retention.daily.days"
	what  string // "negative"
	body  []byte
	// wrong is true for a value that no rule allows for a field of that kind: it
	// must be refused with the field's path.
	wrong bool
}

// spoiler makes spoiled requests.
type spoiler struct {
	root protoreflect.Message
	huge func() bool // whether to try a value that takes long
	try  func(spoiled)
}

// spoil calls try with every kind of wrong value in every field of m, which it
// leaves as it was. Messages below m that are not set are tried as well, with
// nothing in them but what is wrong.
func spoil(m proto.Message, huge func() bool, try func(spoiled)) {
	s := spoiler{m.ProtoReflect(), huge, try}
	s.message(s.root, "", 5)
}

// send tries the request as it is now.
func (s spoiler) send(fd protoreflect.FieldDescriptor, path, what string, wrong bool) {
	b, err := proto.MarshalOptions{AllowPartial: true, Deterministic: true}.Marshal(s.root.Interface())
	if err != nil {
		panic(path + " " + what + ": " + err.Error())
	}
	if i := bytes.Index(b, badUTF8[:]); i >= 0 { // the library sends no bad UTF-8, so it is put in last
		b[i], b[i+1] = 0xff, 0xc0
	}
	s.try(spoiled{fd, path, what, b, wrong})
}

// badUTF8 stands for text that is not UTF-8 while a request is put together.
var badUTF8 = [...]byte{0x1f, 0x1e, 'b', 'a', 'd'}

func (s spoiler) message(m protoreflect.Message, above string, depth int) {
	orig := proto.Clone(m.Interface())
	fds := m.Descriptor().Fields()
	for i := range fds.Len() {
		fd := fds.Get(i)
		path := above + string(fd.Name())
		restore := func() {
			proto.Reset(m.Interface())
			proto.Merge(m.Interface(), orig)
		}
		put := func(v value) {
			if v.huge() && !s.huge() {
				return
			}
			m.Set(fd, v.v)
			s.send(fd, path, v.what, v.wrong)
			restore()
		}
		if m.Has(fd) {
			m.Clear(fd)
			s.send(fd, path, "missing", false)
			restore()
		}
		switch {
		case fd.IsMap():
			for _, v := range mapValues(m, fd) {
				put(v)
			}
		case fd.IsList():
			for _, v := range listValues(m, fd) {
				put(v)
			}
			if fd.Message() != nil && depth > 0 {
				l := m.Mutable(fd).List()
				if l.Len() == 0 {
					l.AppendMutable()
				}
				s.message(l.Get(0).Message(), path+".", depth-1)
				restore()
			}
		case fd.Message() != nil && wellKnown(fd) != nil:
			for _, v := range wellKnown(fd) {
				put(v)
			}
		case fd.Message() != nil:
			put(value{"empty", m.NewField(fd), false})
			if depth > 0 {
				s.message(m.Mutable(fd).Message(), path+".", depth-1)
				restore()
			}
		default:
			for _, v := range scalars(fd, m.Get(fd)) {
				put(v)
			}
		}
	}
}

// value is one to put into a field.
type value struct {
	what  string
	v     protoreflect.Value
	wrong bool
}

// huge reports whether the value is so large that a call with it takes long.
func (v value) huge() bool {
	return strings.Contains(v.what, "MiB") || strings.Contains(v.what, "0000") || strings.Contains(v.what, "thousands")
}

// scalars are values for a field without structure, which has now.
func scalars(fd protoreflect.FieldDescriptor, now protoreflect.Value) (out []value) {
	wrong := func(what string, v any) { out = append(out, value{what, protoreflect.ValueOf(v), true}) }
	other := func(what string, v any) { out = append(out, value{what, protoreflect.ValueOf(v), false}) }
	switch fd.Kind() {
	case protoreflect.StringKind:
		wrong("of bad UTF-8", string(badUTF8[:]))
		wrong("with a control character", "a\x00b")
		wrong("of 64 KiB", strings.Repeat("a", 64<<10))
		wrong("of 1 MiB", strings.Repeat("é", 1<<19))
		other("that is a path", "../../etc/passwd%s%n")
		other("in upper case", strings.ToUpper(now.String()))
		for _, name := range []string{sub, vault, daily, item1, host1, web1, vault + "/jobs/j1", item1 + "/recoveryPoints/p1"} {
			// A name of another kind is wrong wherever a name stands; one of the same
			// kind may be of something else.
			is := collections(now.String())
			out = append(out, value{"that names " + collections(name), protoreflect.ValueOfString(name), is != "" && is != collections(name)})
			other("of another subscription", strings.Replace(name, sub, "subscriptions/other", 1))
		}
		if collections(now.String()) != "" {
			for what, v := range map[string]string{
				"with a path in it": now.String() + "/../v1", "that ends in a slash": now.String() + "/", "with a long id": now.String() + strings.Repeat("a", 64),
				"in capitals": strings.ToUpper(now.String()), "with a space": now.String() + " ", "with %": now.String() + "%2e", "with an empty id": now.String()[:strings.LastIndexByte(now.String(), '/')+1],
			} {
				wrong(what, v)
			}
		}
		if n := string(fd.Name()); now.String() != "" && strings.HasSuffix(n, "_id") && n != "request_id" && n != "lease_id" && n != "instance_id" {
			for what, v := range map[string]string{
				"in capitals": "V1", "with a slash": "v/1", "that begins with a digit": "1v", "that ends in a hyphen": "v-", "of 64 characters": strings.Repeat("v", 64), "with dots": "..",
			} {
				wrong(what, v)
			}
		}
	case protoreflect.BytesKind:
		other("short", []byte{1, 2, 3})
		other("long", make([]byte, 140000))
		wrong("of 5 MiB", make([]byte, 5<<20+1))
	case protoreflect.Int32Kind:
		wrong("negative", int32(-1))
		wrong("smallest", int32(math.MinInt32))
		wrong("largest", int32(math.MaxInt32))
	case protoreflect.Int64Kind:
		wrong("negative", int64(-1))
		wrong("smallest", int64(math.MinInt64))
		wrong("largest", int64(math.MaxInt64))
	case protoreflect.EnumKind:
		wrong("unknown", protoreflect.EnumNumber(999))
		wrong("negative", protoreflect.EnumNumber(-5))
		wrong("largest", protoreflect.EnumNumber(math.MaxInt32))
		for i := range fd.Enum().Values().Len() {
			other(string(fd.Enum().Values().Get(i).Name()), fd.Enum().Values().Get(i).Number())
		}
	case protoreflect.BoolKind:
		other("true", true)
	default:
		panic(fd.FullName())
	}
	return out
}

// collections gives the words of a resource name that are no ids: what kind of
// name it is. It is "" for what is no name.
func collections(name string) string {
	parts := strings.Split(name, "/")
	if parts[0] != "subscriptions" || len(parts)%2 != 0 {
		return ""
	}
	var kind []string
	for i := 0; i < len(parts); i += 2 {
		kind = append(kind, parts[i])
	}
	return strings.Join(kind, "/")
}

// listValues are lists for a field: too long, with each wrong element, doubled.
func listValues(m protoreflect.Message, fd protoreflect.FieldDescriptor) (out []value) {
	list := func(n int, e func() protoreflect.Value) protoreflect.Value {
		v := m.NewField(fd)
		for range n {
			v.List().Append(e())
		}
		return v
	}
	now := m.Get(fd).List()
	if fd.Message() != nil {
		empty := func() protoreflect.Value { return m.NewField(fd).List().NewElement() }
		out = append(out, value{"of one empty element", list(1, empty), false}, value{"of 20000 elements", list(20000, empty), true})
		if now.Len() > 0 {
			first := now.Get(0)
			out = append(out, value{"with an element twice", list(2, func() protoreflect.Value { return first }), false})
		}
		return out
	}
	var first protoreflect.Value
	if now.Len() > 0 {
		first = now.Get(0)
		out = append(out, value{"with an element twice", list(2, func() protoreflect.Value { return first }), true})
	} else {
		first = m.NewField(fd).List().NewElement()
	}
	out = append(out, value{"of 70000 elements", list(70000, func() protoreflect.Value { return first }), true})
	for _, s := range scalars(fd, first) {
		out = append(out, value{"with an element " + s.what, list(1, func() protoreflect.Value { return s.v }), s.wrong})
	}
	return out
}

// mapValues are maps for a field; all have text on both sides.
func mapValues(m protoreflect.Message, fd protoreflect.FieldDescriptor) (out []value) {
	add := func(what string, wrong bool, keys ...string) {
		v := m.NewField(fd)
		for i := 0; i < len(keys); i += 2 {
			v.Map().Set(protoreflect.ValueOfString(keys[i]).MapKey(), protoreflect.ValueOfString(keys[i+1]))
		}
		out = append(out, value{what, v, wrong})
	}
	long := strings.Repeat("a", 64<<10)
	add("with an empty key", true, "", "/v")
	add("with a control character in a key", true, "a\x01", "/v")
	add("with a control character in a value", true, "a", "/v\x01")
	add("with a long key", true, long, "/v")
	add("with a long value", true, "a", "/"+long)
	add("with a key of bad UTF-8", true, string(badUTF8[:]), "/v")
	add("with a value of bad UTF-8", true, "a", string(badUTF8[:]))
	var many []string
	for i := range 5000 {
		many = append(many, "k"+strings.Repeat("a", i%50)+string(rune('a'+i%26))+strings.Repeat("b", i/50%50), "/v")
	}
	add("of thousands", true, many...)
	return out
}

// wellKnown are values for a timestamp, a duration or a field mask; nil for a field
// of another kind.
func wellKnown(fd protoreflect.FieldDescriptor) (out []value) {
	add := func(what string, wrong bool, m proto.Message) {
		out = append(out, value{what, protoreflect.ValueOfMessage(m.ProtoReflect()), wrong})
	}
	switch fd.Message().FullName() {
	case "google.protobuf.Timestamp":
		add("behind all years", true, &timestamppb.Timestamp{Seconds: 253402300800})
		add("before all years", true, &timestamppb.Timestamp{Seconds: -62135596801})
		add("of the most seconds", true, &timestamppb.Timestamp{Seconds: math.MaxInt64, Nanos: 999999999})
		add("of the fewest seconds", true, &timestamppb.Timestamp{Seconds: math.MinInt64})
		add("of too many nanoseconds", true, &timestamppb.Timestamp{Seconds: 1 << 30, Nanos: 1e9})
		add("of negative nanoseconds", true, &timestamppb.Timestamp{Seconds: 1 << 30, Nanos: -1})
		add("of the epoch", false, &timestamppb.Timestamp{})
		add("of the year 9999", false, &timestamppb.Timestamp{Seconds: 253402300799})
		add("of the year 1", false, &timestamppb.Timestamp{Seconds: -62135596800})
	case "google.protobuf.Duration":
		add("out of range", true, &durationpb.Duration{Seconds: math.MaxInt64})
		add("negative", true, &durationpb.Duration{Seconds: -1})
		add("of two signs", true, &durationpb.Duration{Seconds: 60, Nanos: -1})
		add("of too many nanoseconds", true, &durationpb.Duration{Seconds: 60, Nanos: math.MaxInt32})
		add("of nothing", false, &durationpb.Duration{})
		add("of 300 years", false, &durationpb.Duration{Seconds: 300 * 366 * 86400})
	case "google.protobuf.FieldMask":
		for _, p := range []string{"", "*", "no_such_field", "name", "uid", "create_time", "Display_Name", "labels.a", "../name", "a\x00b", strings.Repeat("a", 64<<10)} {
			add("of "+quote(p), true, &fieldmaskpb.FieldMask{Paths: []string{p}})
		}
		add("of bad UTF-8", true, &fieldmaskpb.FieldMask{Paths: []string{string(badUTF8[:])}})
		add("of nothing", true, &fieldmaskpb.FieldMask{})
		add("of thousands", true, &fieldmaskpb.FieldMask{Paths: strings.Split(strings.Repeat("x,", 5000), ",")})
	}
	return out
}

// unknownField is a field that no message has, with a text to look for.
func unknownField() []byte {
	b := protowire.AppendTag(nil, 29999, protowire.BytesType)
	return protowire.AppendString(b, unknownText)
}

const unknownText = "of a newer version"
