package nbd

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// What only a server needs of the protocol's numbers.
const (
	optExportName = 1
	optList       = 3
	optInfo       = 6

	repServer = 2

	repErrInvalid = repErrorBit + 3
	repErrTooBig  = repErrorBit + 9

	infoName = 1

	// allocationID is the number of base:allocation on every connection.
	allocationID = 1

	servedFlags = flagHasFlags | flagReadOnly | flagSendFlush | flagCanMultiConn
)

// negotiate speaks the handshake; false means that the client said goodbye.
func (c *served) negotiate() (transmission bool, err error) {
	be := binary.BigEndian
	hello := be.AppendUint64(nil, magicInit)
	hello = be.AppendUint64(hello, magicOption)
	if err := c.write(be.AppendUint16(hello, hsFixedNewstyle|hsNoZeroes)); err != nil {
		return false, err
	}
	var b [16]byte
	if _, err := io.ReadFull(c.br, b[:4]); err != nil {
		return false, err
	}
	flags := be.Uint32(b[:])
	if flags&^(hsFixedNewstyle|hsNoZeroes) != 0 || flags&hsFixedNewstyle == 0 {
		return false, errHangUp
	}
	c.noZeroes = flags&hsNoZeroes != 0
	for range maxOptions {
		if _, err := io.ReadFull(c.br, b[:]); err != nil {
			return false, err
		}
		opt, n := be.Uint32(b[8:]), be.Uint32(b[12:])
		if be.Uint64(b[:]) != magicOption || n > maxRequest {
			return false, errHangUp
		}
		if n > maxOption {
			if _, err := io.CopyN(io.Discard, c.br, int64(n)); err != nil {
				return false, err
			}
			if opt == optExportName { // which has no way to say no
				return false, errHangUp
			}
			if err := c.reply(opt, repErrTooBig, []byte("option is too long")); err != nil {
				return false, err
			}
			continue
		}
		data := make([]byte, n)
		if _, err := io.ReadFull(c.br, data); err != nil {
			return false, err
		}
		if done, err := c.option(opt, data); err != nil || done {
			return done, err
		}
	}
	return false, errHangUp
}

// option answers one option; true begins the transmission phase.
func (c *served) option(opt uint32, data []byte) (transmission bool, err error) {
	switch opt {
	case optExportName:
		e, ok := c.s.export(string(data))
		if !ok {
			return false, errHangUp
		}
		c.open(e, string(data))
		b := binary.BigEndian.AppendUint64(nil, uint64(c.size))
		b = binary.BigEndian.AppendUint16(b, servedFlags)
		if !c.noZeroes {
			b = append(b, make([]byte, 124)...)
		}
		return true, c.write(b)
	case optAbort:
		_ = c.reply(opt, repAck, nil) // the client need not wait for it
		return false, errHangUp
	case optList:
		return false, c.list(opt, data)
	case optInfo, optGo:
		return c.info(opt, data)
	case optStructuredReply:
		if len(data) > 0 {
			return false, c.reply(opt, repErrInvalid, []byte("the option carries no data"))
		}
		c.structured = true
		return false, c.reply(opt, repAck, nil)
	case optListMeta, optSetMeta:
		return false, c.meta(opt, data)
	}
	return false, c.reply(opt, repErrUnsup, nil)
}

func (c *served) list(opt uint32, data []byte) error {
	if len(data) > 0 {
		return c.reply(opt, repErrInvalid, []byte("the option carries no data"))
	}
	for _, name := range slices.Sorted(maps.Keys(c.s.exports)) {
		if err := c.reply(opt, repServer, append(appendString(nil, name), c.s.exports[name].description()...)); err != nil {
			return err
		}
	}
	return c.reply(opt, repAck, nil)
}

// info answers NBD_OPT_INFO and NBD_OPT_GO.
func (c *served) info(opt uint32, data []byte) (transmission bool, err error) {
	d := optionData{b: data}
	name := d.text()
	var asked []uint16
	for range d.uint16() {
		asked = append(asked, d.uint16())
	}
	if !d.complete() {
		return false, c.reply(opt, repErrInvalid, []byte("malformed option"))
	}
	e, ok := c.s.export(name)
	if !ok {
		return false, c.reply(opt, repErrUnknown, fmt.Appendf(nil, "no export %q", name))
	}
	be := binary.BigEndian
	b := be.AppendUint16(nil, infoExport)
	b = be.AppendUint64(b, uint64(e.Data.Size()))
	if err := c.reply(opt, repInfo, be.AppendUint16(b, servedFlags)); err != nil {
		return false, err
	}
	slices.Sort(asked)
	for _, kind := range slices.Compact(asked) {
		b := be.AppendUint16(nil, kind)
		switch kind {
		case infoName:
			b = append(b, name...)
		case infoDescription:
			b = append(b, e.description()...)
		case infoBlockSize:
			b = be.AppendUint32(b, 1)
			b = be.AppendUint32(b, 64<<10)
			b = be.AppendUint32(b, maxRequest)
		default:
			continue
		}
		if err := c.reply(opt, repInfo, b); err != nil {
			return false, err
		}
	}
	if opt == optGo {
		c.open(e, name)
	}
	return opt == optGo, c.reply(opt, repAck, nil)
}

// open fixes what the transmission phase is about. Contexts that were selected
// for another export are void.
func (c *served) open(e Export, name string) {
	c.export, c.size = e, e.Data.Size()
	c.allocation = c.allocation && c.metaExport == name
}

// meta answers NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT.
func (c *served) meta(opt uint32, data []byte) error {
	d := optionData{b: data}
	name := d.text()
	var queries []string
	for n := d.uint32(); n > 0 && !d.bad; n-- {
		queries = append(queries, d.text())
	}
	if opt == optSetMeta { // also one that fails selects anew
		c.metaExport, c.allocation = name, false
	}
	switch {
	case !d.complete():
		return c.reply(opt, repErrInvalid, []byte("malformed option"))
	case !c.structured:
		return c.reply(opt, repErrInvalid, []byte("structured replies come first"))
	}
	e, ok := c.s.export(name)
	if !ok {
		return c.reply(opt, repErrUnknown, fmt.Appendf(nil, "no export %q", name))
	}
	_, maps := e.Data.(Mapper)
	wanted := slices.Contains(queries, BaseAllocation)
	if opt == optListMeta {
		wanted = wanted || len(queries) == 0 || slices.Contains(queries, "base:")
	}
	if maps && wanted {
		id := uint32(0)
		if opt == optSetMeta {
			c.allocation, id = true, allocationID
		}
		if err := c.reply(opt, repMetaContext, append(binary.BigEndian.AppendUint32(nil, id), BaseAllocation...)); err != nil {
			return err
		}
	}
	return c.reply(opt, repAck, nil)
}

func (c *served) reply(opt, typ uint32, data []byte) error {
	be := binary.BigEndian
	b := be.AppendUint64(nil, magicOptReply)
	b = be.AppendUint32(b, opt)
	b = be.AppendUint32(b, typ)
	b = be.AppendUint32(b, uint32(len(data)))
	return c.write(append(b, data...))
}

// optionData takes an option's data apart. After a mistake everything is 0.
type optionData struct {
	b   []byte
	bad bool
}

func (d *optionData) take(n uint32) []byte {
	if d.bad || uint64(n) > uint64(len(d.b)) {
		d.bad = true
		return make([]byte, 4)[:min(n, 4)]
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *optionData) uint16() uint16 { return binary.BigEndian.Uint16(d.take(2)) }
func (d *optionData) uint32() uint32 { return binary.BigEndian.Uint32(d.take(4)) }

func (d *optionData) text() string {
	n := d.uint32()
	if n > maxString {
		d.bad = true
	}
	if d.bad {
		return ""
	}
	return strings.ToValidUTF8(string(d.take(n)), "?")
}

func (d *optionData) complete() bool { return !d.bad && len(d.b) == 0 }
