package watch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The stream is little-endian 32-bit words. It begins with magic and revision. Then come records; the
// highest bits of a record's first word say what it is:
//
//	0...            a block begins: the word is its number
//	10..            the block's last instruction accessed the stack: the other 30 bits, signed, are
//	                the difference to the last such address; the first is to 0
//	wordPartial     | n: the last block ended after n instructions
//	wordAddress     as 10.., with the address itself in 2 words
//	wordBlock       | user<<23 | kind<<16 | n: the next block is defined: its address (2 words), the
//	                lengths of its n instructions, a byte each, and, of a block in user space, their
//	                code; lengths and code are filled up to words with zeros
//	wordClock       the clock that the last block read, in ns (2 words)
//	wordMark        | mark: its two arguments and the clock (6 words)
//	wordSymbols     length in bytes (2 words) and text, filled up to words
//	wordEnd         the end: what follows is not read
//
// A block's stack access, partial end and clock reading come in this order, after its number.
const (
	magic    = 0x74426b48 // "HkBt"
	revision = 1

	wordStack   = 0x80000000
	wordPartial = 0xc0000000
	wordAddress = 0xc1000000
	wordBlock   = 0xc2000000
	wordClock   = 0xc3000000
	wordMark    = 0xc4000000
	wordSymbols = 0xc5000000
	wordEnd     = 0xcf000000

	kindMask = 0xff000000 // of the words from wordPartial on
	userBit  = 1 << 23
)

// Bounds of what a stream may hold. QEMU ends a block after 512 instructions (TCG_MAX_INSNS), an
// instruction has at most 15 bytes.
const (
	maxInstructions = 512
	maxLength       = 15
	maxBlocks       = 1 << 22 // in one window
	maxSymbols      = 64 << 20
)

// ErrCut is wrapped by the error for a stream without an end: the guest ended early.
var ErrCut = errors.New("it is cut off")

// readSize is how much is read at once, in bytes. Every record but symbols is shorter.
const readSize = 1 << 18

// Decode reads a stream to its end and calls h for each thing that it says. It needs memory for the
// blocks of one window and for the symbols. A stream that is not whole or makes no sense is an error.
func Decode(r io.Reader, h Handler) error {
	d := decoder{r: r, h: h, buf: make([]byte, 0, readSize)}
	if err := d.run(); err != nil {
		return fmt.Errorf("read the plugin's stream, byte %d: %w", d.base+int64(d.at), err)
	}
	return nil
}

type decoder struct {
	r    io.Reader
	h    Handler
	buf  []byte
	at   int   // in buf
	base int64 // bytes before buf

	blocks  []*Block // of this window
	first   uint32   // number of blocks[0]
	open    bool
	running *Block // has begun, and is not reported yet
	n       int    // instructions of it
	read    bool   // it read the clock, which is not reported yet
	stack   [1]StackAccess
	depth   int // of stack: 0 or 1
	sp      uint64
}

func (d *decoder) run() error {
	head, err := d.take(8)
	if err != nil {
		return err
	}
	if m, rev := binary.LittleEndian.Uint32(head), binary.LittleEndian.Uint32(head[4:]); m != magic || rev != revision {
		return fmt.Errorf("it begins with %#x, revision %d; want %#x, revision %d", m, rev, uint32(magic), revision)
	}
	for {
		if len(d.buf)-d.at < 4 {
			if err := d.more(4); err != nil {
				return err
			}
		}
		w := binary.LittleEndian.Uint32(d.buf[d.at:])
		d.at += 4
		switch {
		case w < wordStack:
			err = d.begin(w)
		case w < wordPartial:
			err = d.access(d.sp + uint64(int64(int32(w<<2)>>2)))
		case w == wordEnd:
			return d.end()
		default:
			err = d.rare(w)
		}
		if err != nil {
			return err
		}
	}
}

// begin is a block that begins: the one before has ended.
func (d *decoder) begin(number uint32) error {
	d.finish()
	if d.read || !d.open {
		return errors.New("a block begins outside a window, or in place of the clock that the last one read")
	}
	i := number - d.first
	if number < d.first || int(i) >= len(d.blocks) {
		return fmt.Errorf("block %d was not defined", number)
	}
	d.running = d.blocks[i]
	d.n, d.depth = len(d.running.Size), 0
	return nil
}

// finish reports the block that runs, if there is one.
func (d *decoder) finish() {
	if d.running == nil {
		return
	}
	d.h.Ran(d.running, d.n, d.stack[:d.depth])
	d.read = d.running.Kind == ReadClock && d.n == len(d.running.Size)
	d.running = nil
}

// access is the stack access of the block that runs.
func (d *decoder) access(address uint64) error {
	if d.running == nil || d.depth > 0 {
		return errors.New("a stack access without a block")
	}
	switch d.running.Kind {
	case Call, CallAny, Return, IReturn:
	default:
		return fmt.Errorf("a stack access of a block of kind %d", d.running.Kind)
	}
	d.sp = address
	d.stack[0] = StackAccess{Kind: d.running.Kind, Address: address}
	d.depth = 1
	return nil
}

// rare decodes the records that do not come with every block.
func (d *decoder) rare(w uint32) error {
	switch w & kindMask {
	case wordPartial:
		n := int(w &^ kindMask)
		if d.running == nil || n >= len(d.running.Size) || d.n != len(d.running.Size) {
			return fmt.Errorf("the last block is said to have ended after %d instructions", n)
		}
		d.n = n
		return nil
	case wordAddress:
		data, err := d.take(8)
		if err != nil {
			return err
		}
		return d.access(binary.LittleEndian.Uint64(data))
	case wordBlock:
		return d.define(w)
	case wordClock:
		return d.clock()
	case wordMark:
		return d.mark(MarkID(w)) //nolint:gosec // its low bits
	case wordSymbols:
		return d.symbols()
	}
	return fmt.Errorf("no record begins with %#x", w)
}

// define reads a block's definition. It comes after the last block has ended.
func (d *decoder) define(w uint32) error {
	d.finish()
	n, kind := int(w&0xffff), Kind(w>>16&0x7f)
	switch {
	case !d.open:
		return errors.New("a block is defined outside a window")
	case n < 1 || n > maxInstructions || kind >= kinds:
		return fmt.Errorf("a block of kind %d with %d instructions", kind, n)
	case len(d.blocks) >= maxBlocks || uint64(d.first)+uint64(len(d.blocks)) >= wordStack:
		return fmt.Errorf("more than %d blocks in one window, or %d in all", maxBlocks, uint32(wordStack))
	}
	data, err := d.take(8 + filled(n))
	if err != nil {
		return err
	}
	b := &Block{ID: d.first + uint32(len(d.blocks)), PC: binary.LittleEndian.Uint64(data), Kind: kind, Size: bytes.Clone(data[8 : 8+n])}
	size := 0
	for _, s := range b.Size {
		if s < 1 || s > maxLength {
			return fmt.Errorf("an instruction of %d bytes", s)
		}
		size += int(s)
	}
	if w&userBit != 0 {
		if data, err = d.take(filled(size)); err != nil {
			return err
		}
		b.Code = bytes.Clone(data[:size])
	}
	d.blocks = append(d.blocks, b)
	d.h.Define(b)
	return nil
}

func (d *decoder) clock() error {
	d.finish()
	if !d.read {
		return errors.New("the clock was read by no block")
	}
	data, err := d.take(8)
	if err != nil {
		return err
	}
	d.read = false
	d.h.Clock(binary.LittleEndian.Uint64(data))
	return nil
}

func (d *decoder) mark(id MarkID) error {
	d.finish()
	data, err := d.take(24)
	if err != nil {
		return err
	}
	switch {
	case id == MarkBegin && !d.open:
		d.open, d.sp = true, 0
		d.first += uint32(len(d.blocks)) //nolint:gosec // at most maxBlocks
		clear(d.blocks)
		d.blocks = d.blocks[:0]
	case id == MarkEnd && d.open && !d.read:
		d.open = false
	default:
		return fmt.Errorf("mark %d where it cannot be", id)
	}
	a, b, ns := binary.LittleEndian.Uint64(data), binary.LittleEndian.Uint64(data[8:]), binary.LittleEndian.Uint64(data[16:])
	d.h.Mark(id, int64(a), int64(b), ns) //nolint:gosec // as they were written
	return nil
}

func (d *decoder) symbols() error {
	if d.open {
		return errors.New("symbols inside a window")
	}
	data, err := d.take(8)
	if err != nil {
		return err
	}
	n := binary.LittleEndian.Uint64(data)
	if n > maxSymbols {
		return fmt.Errorf("%d bytes of symbols", n)
	}
	var text bytes.Buffer // grows with what comes, not with what was announced
	for left := filled(int(n)); left > 0; {
		data, err := d.take(min(left, readSize/2))
		if err != nil {
			return err
		}
		text.Write(data)
		left -= len(data)
	}
	d.h.Symbols(text.Bytes()[:n])
	return nil
}

func (d *decoder) end() error {
	if d.open {
		return errors.New("it ends in a window")
	}
	return nil
}

// filled is a length rounded up to whole words.
func filled(n int) int { return (n + 3) &^ 3 }

// take is the next n bytes, at most readSize/2. They are valid until the next call.
func (d *decoder) take(n int) ([]byte, error) {
	if len(d.buf)-d.at < n {
		if err := d.more(n); err != nil {
			return nil, err
		}
	}
	data := d.buf[d.at : d.at+n]
	d.at += n
	return data, nil
}

// more reads on until n bytes are there.
func (d *decoder) more(n int) error {
	left := copy(d.buf[:cap(d.buf)], d.buf[d.at:])
	d.base += int64(d.at)
	d.at = 0
	got, err := io.ReadAtLeast(d.r, d.buf[left:cap(d.buf)], n-left)
	d.buf = d.buf[:left+got]
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrCut
	}
	return err
}
