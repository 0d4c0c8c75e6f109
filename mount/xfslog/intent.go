package xfslog

import (
	"fmt"
	"io"
	"slices"
)

// An operation that takes several transactions is announced in the first by an
// intent and struck off by another item in the last. What is still open at the
// head of the log, the kernel finishes after the replay.
type intent struct {
	kind uint16 // of the intent, even when this strikes it off
	done bool
	id   uint64
	// seq and order say when it was announced: in which transaction, and as
	// which of its intents.
	seq   uint32
	order int
	maps  []mapChange // of a file mapping intent
}

// intentKey: numbers are addresses in the guest's memory, unique among those that
// are open.
type intentKey struct {
	kind uint16
	id   uint64
}

// maxOpen bounds intents that are open at a time.
const maxOpen = 64 << 10

// intentNames are for people. Each done item has the number behind its intent's,
// and the kinds follow each other.
var intentNames = map[uint16]string{
	typeEFI:   "extents to be freed",
	0x1240:    "reverse mappings to be updated",
	0x1242:    "reference counts to be updated",
	typeBUI:   "file mapping update intent (BUI)",
	typeATTRI: "extended attribute intent (ATTRI)",
	typeXMI:   "mapping exchange intent (XMI)",
	0x124A:    "realtime extents to be freed",
	0x124C:    "realtime reverse mappings to be updated",
	0x124E:    "realtime reference counts to be updated",
}

// intentItem takes an intent or what strikes one off. All have a number at 8,
// and some a count of parts at 4.
func (l *loader) intentItem(t *transaction, it *item, kind uint16) error {
	if len(it.first) < 16 {
		return corrupt("intent item %#x of %d bytes", kind, it.firstLen)
	}
	if l.acts++; l.acts > maxOpen {
		return unsupported("more than %d intents in transactions at a time", maxOpen)
	}
	in := intent{kind: kind &^ 1, done: kind&1 != 0, id: t.order.Uint64(it.first[8:])}
	if in.kind == typeBUI && !in.done {
		n := int(t.order.Uint32(it.first[4:]))
		if n < 1 || n > (maxFirst-16)/32 || it.firstLen < 16+32*n {
			return corrupt("file mapping intent with %d changes in %d bytes", n, it.firstLen)
		}
		for i := range n {
			in.maps = append(in.maps, parseMapChange(t.order, it.first[16+32*i:]))
		}
	}
	t.acts = append(t.acts, in)
	return nil
}

// intents books what a committed transaction announces and strikes off. An
// intent may be struck off by the transaction that announces it.
func (l *loader) intents(t *transaction) error {
	for i, in := range t.acts {
		if !in.done {
			in.seq, in.order = l.seq, i
			l.open[intentKey{in.kind, in.id}] = in
		}
	}
	for _, in := range t.acts {
		if in.done {
			delete(l.open, intentKey{in.kind, in.id})
		}
	}
	if len(l.open) > maxOpen {
		return unsupported("more than %d intents are open", maxOpen)
	}
	return nil
}

// finishIntents does what is left of the operations that were under way, as far
// as a reader could see it, and counts the others.
func (l *Log) finishIntents(volume io.ReaderAt, open map[intentKey]intent) error {
	var list []intent
	for _, in := range open {
		switch in.kind {
		case typeBUI:
			list = append(list, in)
		case typeATTRI, typeXMI:
			return unsupported("an unfinished %s in the log", intentNames[in.kind])
		default:
			l.report.Unfinished[intentNames[in.kind]]++
		}
	}
	slices.SortFunc(list, func(a, b intent) int {
		if a.seq != b.seq {
			return int(int32(a.seq - b.seq))
		}
		return a.order - b.order
	})
	for _, in := range list {
		for _, m := range in.maps {
			if err := l.changeMap(volume, m); err != nil {
				return fmt.Errorf("an unfinished %s in the log: %w", intentNames[in.kind], err)
			}
		}
		l.report.Mappings += len(in.maps)
	}
	return nil
}
