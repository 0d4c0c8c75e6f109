package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"sigs.k8s.io/yaml"
)

// table says how resources of one kind stand in a table: a heading and a cell
// per column.
type table[T proto.Message] struct {
	head []string
	row  func(T) []string
}

// printList prints resources in the format asked for: as JSON or YAML an array.
func printList[T proto.Message](a *app, t table[T], list []T) error {
	if a.output == "table" {
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, strings.Join(t.head, "\t"))
		for _, m := range list {
			fmt.Fprintln(w, strings.Join(t.row(m), "\t"))
		}
		return w.Flush()
	}
	var b bytes.Buffer
	b.WriteByte('[')
	for i, m := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		j, err := toJSON(m)
		if err != nil {
			return err
		}
		b.Write(j)
	}
	b.WriteByte(']')
	return printJSON(os.Stdout, a.output, b.Bytes())
}

// printOne prints one resource: as a table, a line per column.
func printOne[T proto.Message](a *app, t table[T], m T) error {
	if a.output == "table" {
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
		row := t.row(m)
		for i, h := range t.head {
			fmt.Fprintf(w, "%s:\t%s\n", h, row[i])
		}
		return w.Flush()
	}
	j, err := toJSON(m)
	if err != nil {
		return err
	}
	return printJSON(os.Stdout, a.output, j)
}

// toJSON is the API's JSON form, with fields that have their default value, so
// that scripts find them.
func toJSON(m proto.Message) ([]byte, error) {
	j, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("print %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return j, nil
}

// printJSON prints JSON indented, or as YAML. protojson varies its spaces on
// purpose; that goes away here.
func printJSON(w io.Writer, format string, j []byte) error {
	if format == "yaml" {
		y, err := yaml.JSONToYAML(j)
		if err != nil {
			return err
		}
		_, err = w.Write(y)
		return err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, j, "", "  "); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err := w.Write(b.Bytes())
	return err
}

// short is the last id of a resource name.
func short(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// field is the id after a collection's name in a resource name:
// field(n, "vaults") of "subscriptions/s/vaults/v/…" is "v".
func field(name, collection string) string {
	parts := strings.Split(name, "/")
	for i := 0; i+1 < len(parts); i += 2 {
		if parts[i] == collection {
			return parts[i+1]
		}
	}
	return ""
}

// word makes an enum value readable: JOB_STATE_IN_PROGRESS → IN_PROGRESS.
func word(v interface{ String() string }, prefix string) string {
	s := strings.TrimPrefix(v.String(), prefix)
	if s == "UNSPECIFIED" {
		return "-"
	}
	return s
}

func size(n int64) string {
	if n < 0 {
		return "-"
	}
	return humanize.IBytes(uint64(n))
}

func when(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return t.AsTime().UTC().Format("2006-01-02 15:04:05Z")
}

// took is the time from start to end, or to now.
func took(start, end *timestamppb.Timestamp) string {
	if start == nil {
		return "-"
	}
	to := time.Now()
	if end != nil {
		to = end.AsTime()
	}
	return to.Sub(start.AsTime()).Round(time.Millisecond).String()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// plural counts things: "1 day", "2 days".
func plural(n int64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return humanize.Comma(n) + " " + thing + "s"
}
