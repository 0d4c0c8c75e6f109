package domxml

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/beevik/etree"
	"github.com/google/uuid"
)

// ErrMalformed marks a document that is no definition of a machine. The text
// says what is wrong with it.
var ErrMalformed = errors.New("malformed domain XML")

const (
	maxBytes = 4 << 20 // libvirt's own limit of a string on the wire
	maxDepth = 64
)

// Domain is a machine's definition. It is not safe for concurrent use.
type Domain struct {
	doc  *etree.Document
	root *etree.Element
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// Parse reads a definition. Errors wrap ErrMalformed.
func Parse(b []byte) (*Domain, error) {
	if err := plain(b); err != nil {
		return nil, err
	}
	doc := etree.NewDocument()
	doc.ReadSettings = etree.ReadSettings{MaxDepth: maxDepth + 1, PreserveCData: true}
	// What a parser would take for white space is written as a reference.
	doc.WriteSettings = etree.WriteSettings{CanonicalText: true, CanonicalAttrVal: true}
	if err := doc.ReadFromBytes(b); err != nil {
		return nil, malformed("%v", err)
	}
	d := &Domain{doc: doc, root: doc.Root()}
	if d.root == nil || d.root.FullTag() != "domain" {
		return nil, malformed("the document's element is not <domain>")
	}
	if d.Name() == "" {
		return nil, malformed("<name> is missing")
	}
	if u := text(d.root, "uuid"); u != "" {
		if _, err := uuid.Parse(u); err != nil {
			return nil, malformed("<uuid> is %q", clip(u))
		}
	}
	targets := map[string]bool{}
	for _, e := range d.devices("disk") {
		t := attr(child(e, "target"), "dev")
		if t == "" {
			return nil, malformed("a <disk> has no <target dev='…'/>")
		}
		if targets[t] {
			return nil, malformed("two disks have the target %q", clip(t))
		}
		targets[t] = true
	}
	return d, nil
}

// plain checks that b is well formed, and has nothing that a definition does
// not need.
func plain(b []byte) error {
	if len(b) > maxBytes {
		return malformed("it has %d bytes, %d are allowed", len(b), maxBytes)
	}
	dec := xml.NewDecoder(bytes.NewReader(b))
	depth, roots := 0, 0
	for {
		tok, err := dec.Token()
		if err == io.EOF {
			break
		} else if err != nil {
			return malformed("%v", err)
		}
		line, _ := dec.InputPos()
		switch tok := tok.(type) {
		case xml.Directive:
			return malformed("line %d: a document type is not allowed", line)
		case xml.StartElement:
			if depth++; depth > maxDepth {
				return malformed("line %d: elements are nested more than %d deep", line, maxDepth)
			}
			if depth == 1 {
				roots++
			}
			seen := map[xml.Name]bool{}
			for _, a := range tok.Attr {
				if seen[a.Name] {
					return malformed("line %d: <%s> has the attribute %q twice", line, clip(tok.Name.Local), clip(a.Name.Local))
				}
				seen[a.Name] = true
			}
		case xml.EndElement:
			depth--
		case xml.CharData:
			if depth == 0 && len(bytes.TrimSpace(tok)) > 0 {
				return malformed("line %d: text outside of the document's element", line)
			}
		}
	}
	if roots != 1 {
		return malformed("it has %d elements at its top, not one", roots)
	}
	return nil
}

// Bytes is the document as it is now.
func (d *Domain) Bytes() []byte {
	b, err := d.doc.WriteToBytes()
	if err != nil { // it writes to memory
		panic(err)
	}
	return b
}

// Clone is a copy that can be changed on its own.
func (d *Domain) Clone() *Domain {
	doc := d.doc.Copy()
	return &Domain{doc: doc, root: doc.Root()}
}

// The helpers below see elements and attributes without a namespace only: a
// <foo:name> is none of libvirt's.

func children(e *etree.Element, tag string) (es []*etree.Element) {
	if e == nil {
		return nil
	}
	for _, c := range e.ChildElements() {
		if c.Space == "" && c.Tag == tag {
			es = append(es, c)
		}
	}
	return es
}

func child(e *etree.Element, path ...string) *etree.Element {
	for _, tag := range path {
		cs := children(e, tag)
		if len(cs) == 0 {
			return nil
		}
		e = cs[0]
	}
	return e
}

func attr(e *etree.Element, key string) string {
	if e == nil {
		return ""
	}
	for _, a := range e.Attr {
		if a.Space == "" && a.Key == key {
			return a.Value
		}
	}
	return ""
}

func has(e *etree.Element, key string) bool {
	if e == nil {
		return false
	}
	for _, a := range e.Attr {
		if a.Space == "" && a.Key == key {
			return true
		}
	}
	return false
}

func text(e *etree.Element, path ...string) string {
	if e = child(e, path...); e == nil {
		return ""
	}
	return strings.TrimSpace(e.Text())
}

// drop removes an element, and the white space before it.
func drop(e *etree.Element) {
	if e == nil {
		return
	}
	p, i := e.Parent(), e.Index()
	p.RemoveChildAt(i)
	if i > 0 {
		if c, ok := p.Child[i-1].(*etree.CharData); ok && c.IsWhitespace() {
			p.RemoveChildAt(i - 1)
		}
	}
}

// dropAll removes the children of the given tags.
func dropAll(e *etree.Element, tags ...string) {
	for _, tag := range tags {
		for _, c := range children(e, tag) {
			drop(c)
		}
	}
}

// ensure returns the child of that tag, and makes it if there is none: after
// the last of the children named by after, or else first.
func ensure(e *etree.Element, tag string, after ...string) *etree.Element {
	if c := child(e, tag); c != nil {
		return c
	}
	at := 0
	for _, a := range after {
		for _, c := range children(e, a) {
			at = max(at, c.Index()+1)
		}
	}
	n := etree.NewElement(tag)
	e.InsertChildAt(at, n)
	if i := n.Index() + 1; i < len(e.Child) && at == 0 {
		if c, ok := e.Child[i].(*etree.CharData); ok && c.IsWhitespace() {
			e.InsertChildAt(0, etree.NewText(c.Data))
		}
	} else if at > 1 {
		if c, ok := e.Child[at-2].(*etree.CharData); ok && c.IsWhitespace() {
			e.InsertChildAt(at, etree.NewText(c.Data))
		}
	}
	return n
}

// clip makes a hostile value fit for a message.
func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}
