package protocol

import (
	"encoding/binary"
	"fmt"
)

// A layout says which fields a request body has at which version. It exists
// because the decoder of kmsg trusts two numbers too far: an array's length is
// allocated at up to a hundred bytes per byte of frame, and a count of tagged
// fields is looped over up to four billion times whether bytes follow or not.
// check walks a body by its layout, allocating nothing, and lets through only
// what kmsg decodes in memory and time that are in proportion to the frame.
// Source: the message definitions at https://kafka.apache.org/protocol.
type layout []field

type field struct {
	kind        fieldKind
	size        int    // fixedField: bytes
	since, last int16  // versions that have the field; last 0: no end
	elems       layout // arrayField of structs, and taggedField: the fields
	bare        bool   // arrayField: elements are one primitive, not a struct; taggedField likewise
	tag         uint32 // taggedField
}

type fieldKind uint8

const (
	fixedField fieldKind = iota
	stringField
	nullableStringField
	bytesField  // nullable: kmsg lets null pass everywhere
	arrayField  // nullable likewise
	taggedField // looked up by tag at the end of its struct
)

const (
	// maxString is the longest string Kafka's own brokers read, in bytes.
	maxString = 0x7fff
	// maxElements bounds what one request may make the decoder allocate: the
	// array elements of all arrays together, at some 100 bytes each.
	maxElements = 1 << 18
	// tagCost is what one tagged field counts for in elements (kmsg keeps
	// the unknown ones in a map).
	tagCost = 4
)

// The building blocks of the layouts in api.go.
var (
	int8s    = field{size: 1}
	int16s   = field{size: 2}
	int32s   = field{size: 4}
	int64s   = field{size: 8}
	uuids    = field{size: 16}
	text     = field{kind: stringField}
	nullable = field{kind: nullableStringField}
	blobs    = field{kind: bytesField}
)

// from limits a field to versions v and later.
func (f field) from(v int16) field { f.since = v; return f }

// to limits a field to versions up to and including v.
func (f field) to(v int16) field { f.last = v; return f }

// structs is an array of structs, list an array of one primitive.
func structs(fields ...field) field { return field{kind: arrayField, elems: fields} }
func list(of field) field           { return field{kind: arrayField, elems: layout{of}, bare: true} }

// tagged is an optional field behind a struct, tag its number.
func tagged(tag uint32, fields ...field) field {
	return field{kind: taggedField, tag: tag, elems: fields}
}

// bareTag marks a tagged field that is one primitive, not a struct.
func (f field) bareTag() field { f.bare = true; return f }

func (f field) in(version int16) bool {
	return version >= f.since && (f.last == 0 || version <= f.last)
}

// check walks body, which is at the given version, and describes what is wrong
// with it. Bytes after the last field are allowed, as Kafka does.
func (l layout) check(body []byte, version int16, flexible bool) error {
	w := walker{src: body, version: version, flexible: flexible, budget: maxElements}
	return w.fields(l, true)
}

// walker reads through a body. Its invariant: src[at:] is what is left.
type walker struct {
	src      []byte
	at       int
	version  int16
	flexible bool
	budget   int // array elements that may still come
}

func (w *walker) left() int { return len(w.src) - w.at }

func (w *walker) fail(format string, args ...any) error {
	return fmt.Errorf("%s at byte %d of %d", fmt.Sprintf(format, args...), w.at, len(w.src))
}

// fields walks the fields of one struct, and its tagged fields when the
// version is flexible and the struct has them.
func (w *walker) fields(l layout, tags bool) error {
	for i := range l {
		if f := &l[i]; f.kind != taggedField && f.in(w.version) {
			if err := w.field(f); err != nil {
				return err
			}
		}
	}
	if !tags || !w.flexible {
		return nil
	}
	return w.tags(l)
}

func (w *walker) field(f *field) error {
	switch f.kind {
	case fixedField:
		return w.skip(f.size)
	case stringField, nullableStringField:
		n, err := w.length(2)
		if err != nil {
			return err
		}
		if n < 0 && f.kind == stringField {
			return w.fail("string without a value")
		}
		if n > maxString {
			return w.fail("string of %d bytes, more than %d,", n, maxString)
		}
		return w.skip(max(n, 0))
	case bytesField:
		n, err := w.length(4)
		if err != nil {
			return err
		}
		return w.skip(max(n, 0))
	default:
		return w.array(f)
	}
}

func (w *walker) array(f *field) error {
	n, err := w.length(4)
	if err != nil {
		return err
	}
	if n > w.left() { // an element takes at least one byte
		return w.fail("array of %d elements in %d bytes", n, w.left())
	}
	if err := w.spend(n); err != nil {
		return err
	}
	for range n {
		if err := w.fields(f.elems, !f.bare); err != nil {
			return err
		}
	}
	return nil
}

// tags walks the tagged fields that end a struct.
//
//	count uvarint, then count times: tag uvarint, length uvarint, that many bytes
func (w *walker) tags(l layout) error {
	count, err := w.uvarint()
	if err != nil {
		return err
	}
	for range count {
		tag, err := w.uvarint()
		if err != nil {
			return err
		}
		size, err := w.uvarint()
		if err != nil {
			return err
		}
		if uint64(size) > uint64(w.left()) {
			return w.fail("tagged field of %d bytes where %d are left", size, w.left())
		}
		if err := w.spend(tagCost); err != nil {
			return err
		}
		end := w.at + int(size)
		if err := w.tagged(l, tag, end); err != nil {
			return err
		}
		w.at = end
	}
	return nil
}

// tagged walks the tagged field that ends at end if the layout knows it.
func (w *walker) tagged(l layout, tag uint32, end int) error {
	for i := range l {
		f := &l[i]
		if f.kind != taggedField || f.tag != tag || !f.in(w.version) {
			continue
		}
		inner := walker{src: w.src[:end], at: w.at, version: w.version, flexible: true, budget: w.budget}
		err := inner.fields(f.elems, !f.bare)
		w.budget = inner.budget
		return err
	}
	return nil
}

func (w *walker) spend(elements int) error {
	if elements > w.budget {
		return w.fail("more than %d array elements", maxElements)
	}
	w.budget -= max(elements, 0)
	return nil
}

func (w *walker) skip(n int) error {
	if n > w.left() {
		return w.fail("field of %d bytes where %d are left", n, w.left())
	}
	w.at += n
	return nil
}

// length reads the length of a string, of bytes, or of an array: a fixed
// number of size bytes, or a uvarint of the length plus one when the version
// is flexible. A negative length means null.
func (w *walker) length(size int) (int, error) {
	if w.flexible {
		n, err := w.uvarint()
		if err == nil && n > 1<<31-1 {
			err = w.fail("length %d", n)
		}
		return int(n) - 1, err
	}
	if size > w.left() {
		return 0, w.fail("length of %d bytes where %d are left", size, w.left())
	}
	b := w.src[w.at:]
	w.at += size
	if size == 2 {
		return int(int16(binary.BigEndian.Uint16(b))), nil
	}
	return int(int32(binary.BigEndian.Uint32(b))), nil
}

func (w *walker) uvarint() (uint32, error) {
	n, size := binary.Uvarint(w.src[w.at:min(len(w.src), w.at+5)])
	if size <= 0 || n > 1<<32-1 {
		return 0, w.fail("number that is cut short or too large")
	}
	w.at += size
	return uint32(n), nil
}
