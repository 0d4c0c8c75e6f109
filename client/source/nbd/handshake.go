package nbd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"net"
	"time"
)

// handshake is one connection before its transmission phase.
type handshake struct {
	rw io.ReadWriter
	br *bufio.Reader
}

// openConn makes one connection and takes it through the handshake.
func openConn(ctx context.Context, dial func(context.Context) (net.Conn, error), o Options) (*conn, *Info, error) {
	var cn *conn
	var info *Info
	err := withHandshake(ctx, dial, func(nc net.Conn, h *handshake) error {
		var ids map[uint32]string
		var err error
		if info, ids, err = h.open(o); err != nil {
			return err
		}
		cn = newConn(nc, h.br, info, ids)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	go cn.receive()
	return cn, info, nil
}

// withHandshake dials, exchanges greetings and calls f with the connection, all
// bounded by ctx. On an error the connection is closed.
func withHandshake(ctx context.Context, dial func(context.Context) (net.Conn, error), f func(net.Conn, *handshake) error) error {
	nc, err := dial(ctx)
	if err != nil {
		return err
	}
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		nc.SetDeadline(time.Unix(1, 0))
		close(fired)
	})
	// Few bytes are buffered, so that most of a large read's data goes from
	// the socket straight to where it belongs.
	h := &handshake{rw: nc, br: bufio.NewReaderSize(nc, 4096)}
	if err = h.greet(); err == nil {
		err = f(nc, h)
	}
	if !stop() {
		<-fired
		err = context.Cause(ctx)
	}
	if err != nil {
		nc.Close()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("the server hung up during the handshake: %w", io.ErrUnexpectedEOF)
		}
	}
	return err
}

// greet reads the server's greeting and answers with the client's flags.
func (h *handshake) greet() error {
	var b [18]byte
	if _, err := io.ReadFull(h.br, b[:16]); err != nil {
		return err
	}
	if binary.BigEndian.Uint64(b[:]) != magicInit {
		return violation("the peer is no NBD server: it begins with %q", b[:8])
	}
	switch binary.BigEndian.Uint64(b[8:]) {
	case magicOption:
	case magicOldstyle:
		return violation("the server speaks the oldstyle handshake, which is not supported")
	default:
		return violation("unknown handshake %q", b[8:16])
	}
	if _, err := io.ReadFull(h.br, b[16:]); err != nil {
		return err
	}
	flags := binary.BigEndian.Uint16(b[16:])
	if flags&hsFixedNewstyle == 0 {
		return violation("the server does not speak the fixed newstyle handshake")
	}
	_, err := h.rw.Write(binary.BigEndian.AppendUint32(nil, uint32(flags&(hsFixedNewstyle|hsNoZeroes))))
	return err
}

// open negotiates everything and enters the transmission phase. ids are the
// metadata contexts agreed on, by their number on this connection.
func (h *handshake) open(o Options) (info *Info, ids map[uint32]string, err error) {
	if len(o.Export) > maxString {
		return nil, nil, fmt.Errorf("export name of %d bytes: at most %d are allowed", len(o.Export), maxString)
	}
	info = &Info{MinBlock: 1, PreferredBlock: 4096, MaxBlock: defaultMaxBlock}
	var refused *OptionError
	switch err := h.option(optStructuredReply, nil, nil); {
	case err == nil:
		info.Structured = true
	case !errors.As(err, &refused):
		return nil, nil, err
	}

	ids = map[uint32]string{}
	if info.Structured && len(o.Contexts) > 0 {
		err := h.metaContexts(optSetMeta, o.Export, o.Contexts, func(id uint32, name string) error {
			for _, want := range o.Contexts {
				if name != want {
					continue
				}
				if _, dup := ids[id]; dup {
					return violation("two metadata contexts with id %d", id)
				}
				ids[id] = name
				info.Contexts = append(info.Contexts, name)
				return nil
			}
			return violation("metadata context %q, which was not asked for", name)
		})
		// A server without contexts is still a server to read from.
		if err != nil && !errors.As(err, &refused) {
			return nil, nil, err
		}
	}

	got := false
	data := appendString(nil, o.Export)
	data = binary.BigEndian.AppendUint16(data, 2)
	data = binary.BigEndian.AppendUint16(data, infoDescription)
	data = binary.BigEndian.AppendUint16(data, infoBlockSize)
	err = h.option(optGo, data, func(typ uint32, data []byte) error {
		if typ != repInfo || len(data) < 2 {
			return violation("reply of type %d and %d bytes to NBD_OPT_GO", typ, len(data))
		}
		kind := binary.BigEndian.Uint16(data)
		got = got || kind == infoExport
		return info.parse(kind, data[2:])
	})
	if err != nil {
		return nil, nil, err
	}
	if !got {
		return nil, nil, violation("the server did not tell the export's size")
	}
	info.MaxBlock -= info.MaxBlock % info.MinBlock
	return info, ids, nil
}

// parse takes in one NBD_REP_INFO. Kinds that are not known are skipped, as
// the protocol asks.
func (i *Info) parse(kind uint16, b []byte) error {
	be := binary.BigEndian
	switch kind {
	case infoExport:
		if len(b) != 10 {
			return violation("NBD_INFO_EXPORT of %d bytes", len(b))
		}
		size, flags := be.Uint64(b), be.Uint16(b[8:])
		if size > math.MaxInt64-maxRange {
			return violation("export of %d bytes", size)
		}
		i.Size = int64(size)
		if flags&flagHasFlags == 0 {
			flags = 0
		}
		i.ReadOnly = flags&flagReadOnly != 0
		i.CanFlush = flags&flagSendFlush != 0
		i.CanTrim = flags&flagSendTrim != 0
		i.CanWriteZeroes = flags&flagSendWriteZeroes != 0
		i.MultiConn = flags&flagCanMultiConn != 0
	case infoDescription:
		if len(b) > maxString {
			return violation("description of %d bytes", len(b))
		}
		i.Description = string(b)
	case infoBlockSize:
		if len(b) != 12 {
			return violation("NBD_INFO_BLOCK_SIZE of %d bytes", len(b))
		}
		lo, pref, hi := be.Uint32(b), be.Uint32(b[4:]), be.Uint32(b[8:])
		if bits.OnesCount32(lo) != 1 || lo > 64<<10 || pref < lo || hi < lo {
			return violation("block sizes %d, %d, %d", lo, pref, hi)
		}
		// 32 MiB in one request is enough for anyone, whatever is allowed.
		i.MinBlock, i.PreferredBlock, i.MaxBlock = int64(lo), int64(pref), min(int64(hi), defaultMaxBlock)
	}
	return nil
}

// ListContexts asks a server which metadata contexts an export has. A query is
// a full name, or a namespace with its colon ("qemu:") for all in it; without
// queries the server names all it wants to.
func ListContexts(ctx context.Context, network, address, export string, queries ...string) ([]string, error) {
	var d net.Dialer
	var names []string
	dial := func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, network, address) }
	err := withHandshake(ctx, dial, func(nc net.Conn, h *handshake) error {
		defer nc.Close()
		if err := h.option(optStructuredReply, nil, nil); err != nil {
			return err
		}
		err := h.metaContexts(optListMeta, export, queries, func(_ uint32, name string) error {
			names = append(names, name)
			return nil
		})
		if err != nil {
			return err
		}
		h.send(optAbort, nil) // a courtesy: the connection is closed in any case
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("nbd: list contexts of export %q: %w", export, err)
	}
	return names, nil
}

// metaContexts sends one of the two options about metadata contexts and calls
// each for every one that the server names.
func (h *handshake) metaContexts(opt uint32, export string, queries []string, each func(id uint32, name string) error) error {
	data := appendString(nil, export)
	data = binary.BigEndian.AppendUint32(data, uint32(len(queries)))
	for _, q := range queries {
		if len(q) > maxString {
			return fmt.Errorf("metadata context name of %d bytes: at most %d are allowed", len(q), maxString)
		}
		data = appendString(data, q)
	}
	return h.option(opt, data, func(typ uint32, data []byte) error {
		if typ != repMetaContext || len(data) < 5 || len(data) > 4+maxString {
			return violation("reply of type %d and %d bytes to %s", typ, len(data), optName(opt))
		}
		return each(binary.BigEndian.Uint32(data), string(data[4:]))
	})
}

func (h *handshake) send(opt uint32, data []byte) error {
	var b bytes.Buffer
	be := binary.BigEndian
	b.Write(be.AppendUint64(nil, magicOption))
	b.Write(be.AppendUint32(nil, opt))
	b.Write(be.AppendUint32(nil, uint32(len(data))))
	b.Write(data)
	_, err := h.rw.Write(b.Bytes())
	return err
}

// option sends an option and reads its replies until the acknowledgement; each
// gets the others. A refusal is an *OptionError.
func (h *handshake) option(opt uint32, data []byte, each func(typ uint32, data []byte) error) error {
	if err := h.send(opt, data); err != nil {
		return err
	}
	be := binary.BigEndian
	for range maxOptReplies {
		var head [20]byte
		if _, err := io.ReadFull(h.br, head[:]); err != nil {
			return err
		}
		magic, forOpt, typ, n := be.Uint64(head[:]), be.Uint32(head[8:]), be.Uint32(head[12:]), be.Uint32(head[16:])
		switch {
		case magic != magicOptReply:
			return violation("bad magic %#x in an option reply", magic)
		case forOpt != opt:
			return violation("reply to %s instead of %s", optName(forOpt), optName(opt))
		case n > maxOptReply:
			return violation("option reply of %d bytes", n)
		}
		data := make([]byte, n)
		if _, err := io.ReadFull(h.br, data); err != nil {
			return err
		}
		switch {
		case typ == repAck && n != 0:
			return violation("acknowledgement with %d bytes", n)
		case typ == repAck:
			return nil
		case typ&repErrorBit != 0:
			return &OptionError{Option: opt, Type: typ, Message: string(data[:min(n, maxString)])}
		case each == nil:
			return violation("reply of type %d to %s", typ, optName(opt))
		}
		if err := each(typ, data); err != nil {
			return err
		}
	}
	return violation("more than %d replies to %s", maxOptReplies, optName(opt))
}

// appendString appends a string as the options carry it: length and bytes.
func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}
