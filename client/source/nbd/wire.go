package nbd

import "fmt"

// The protocol's numbers. All integers on the wire are big-endian.
const (
	magicInit       = 0x4e42444d41474943 // "NBDMAGIC"
	magicOldstyle   = 0x00420281861253
	magicOption     = 0x49484156454f5054 // "IHAVEOPT"
	magicOptReply   = 0x3e889045565a9
	magicRequest    = 0x25609513
	magicSimple     = 0x67446698
	magicStructured = 0x668e33ef

	hsFixedNewstyle = 1 << 0 // handshake flags, the same both ways
	hsNoZeroes      = 1 << 1

	optAbort           = 2
	optGo              = 7
	optStructuredReply = 8
	optListMeta        = 9
	optSetMeta         = 10

	repAck         = 1
	repInfo        = 3
	repMetaContext = 4
	repErrorBit    = 1 << 31

	infoExport      = 0
	infoDescription = 2
	infoBlockSize   = 3

	flagHasFlags        = 1 << 0 // transmission flags
	flagReadOnly        = 1 << 1
	flagSendFlush       = 1 << 2
	flagSendTrim        = 1 << 5
	flagSendWriteZeroes = 1 << 6
	flagCanMultiConn    = 1 << 8

	cmdRead        = 0
	cmdWrite       = 1
	cmdDisc        = 2
	cmdFlush       = 3
	cmdTrim        = 4
	cmdWriteZeroes = 6
	cmdBlockStatus = 7

	cmdFlagNoHole = 1 << 1

	chunkDone = 1 << 0 // flag of a structured reply's last chunk

	chunkNone        = 0
	chunkOffsetData  = 1
	chunkOffsetHole  = 2
	chunkBlockStatus = 5
	chunkErrorBit    = 1 << 15
	chunkErrorOffset = chunkErrorBit + 2
)

// Bounds on what a server may make us hold or do.
const (
	maxString       = 4096     // the protocol's own limit of names and texts
	maxOptReply     = 16 << 10 // bytes of one option reply; the longest known is 4 KiB and a few
	maxOptReplies   = 4096     // replies to one option
	maxStatusChunk  = 8 << 20  // bytes of one NBD_REPLY_TYPE_BLOCK_STATUS; QEMU sends at most 1 MiB
	maxErrorChunk   = maxString + 64
	maxReadPieces   = 4096 // disjoint pieces of one read at any moment
	defaultMaxBlock = 32 << 20
)

var cmdNames = map[uint16]string{
	cmdRead: "read", cmdWrite: "write", cmdDisc: "disconnect", cmdFlush: "flush",
	cmdTrim: "trim", cmdWriteZeroes: "write zeroes", cmdBlockStatus: "block status",
}

func optName(o uint32) string {
	switch o {
	case optAbort:
		return "NBD_OPT_ABORT"
	case optGo:
		return "NBD_OPT_GO"
	case optStructuredReply:
		return "NBD_OPT_STRUCTURED_REPLY"
	case optListMeta:
		return "NBD_OPT_LIST_META_CONTEXT"
	case optSetMeta:
		return "NBD_OPT_SET_META_CONTEXT"
	}
	return fmt.Sprintf("option %d", o)
}
