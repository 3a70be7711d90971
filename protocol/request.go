package protocol

import (
	"encoding/binary"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// RequestHeader is the part of a request that is the same for every API.
type RequestHeader struct {
	Key, Version  int16
	CorrelationID int32
	ClientID      *string // a copy; nil when the client sent none
}

// RequestErrorKind tells apart why a request was refused.
type RequestErrorKind uint8

const (
	// MalformedHeader: the frame ends inside the header. Of the header, what
	// came before the damage is filled in. Close the connection.
	MalformedHeader RequestErrorKind = iota + 1
	// UnknownAPI: no API with this key is served. Close the connection.
	UnknownAPI
	// UnsupportedVersion: the API is served, this version is not. ApiVersions
	// is answered at version 0 with UNSUPPORTED_VERSION (35); for any other,
	// close the connection.
	UnsupportedVersion
	// MalformedBody: the header is whole, the body does not decode. Close
	// the connection.
	MalformedBody
)

func (k RequestErrorKind) String() string {
	switch k {
	case MalformedHeader:
		return "malformed header"
	case UnknownAPI:
		return "unknown API"
	case UnsupportedVersion:
		return "unsupported version"
	case MalformedBody:
		return "malformed body"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// RequestError reports a frame that is not a request mft answers. Header is
// filled as far as the frame could be read: from kind UnknownAPI on, all but
// perhaps the ClientID.
type RequestError struct {
	Kind   RequestErrorKind
	Header RequestHeader
	Reason string
}

func (e *RequestError) Error() string {
	name := fmt.Sprintf("key %d", e.Header.Key)
	if api, ok := LookupAPI(e.Header.Key); ok {
		name = api.Name
	}
	return fmt.Sprintf("%s in a request (%s, version %d, correlation id %d): %s",
		e.Kind, name, e.Header.Version, e.Header.CorrelationID, e.Reason)
}

// headerFixedLen is the part of a request header before the client id.
const headerFixedLen = 8

// ParseRequest decodes a frame as ReadFrame returns it.
//
//	 0     2         4                8
//	+-----+---------+----------------+-----------------+--------+------+
//	| key | version | correlation id | client id       | tagged | body |
//	| i16 | i16     | i32            | i16 length, txt | fields |      |
//	+-----+---------+----------------+-----------------+--------+------+
//	                                                    flexible versions only
//
// Strings of the request are copies. Byte fields (the records of Produce, the
// metadata of JoinGroup, the assignments of SyncGroup, unknown tagged fields)
// alias frame: whoever keeps one beyond the life of the frame's buffer copies it.
//
// What decoding allocates is bounded: a body whose lengths do not fit into the frame,
// or with more array elements than any honest client sends, is refused
// beforehand. Every error is a *RequestError, and its header is returned as well.
func ParseRequest(frame []byte) (RequestHeader, kmsg.Request, error) {
	var h RequestHeader
	if len(frame) < headerFixedLen {
		return h, nil, &RequestError{MalformedHeader, h, fmt.Sprintf("%d bytes are too few for a header", len(frame))}
	}
	h.Key = int16(binary.BigEndian.Uint16(frame))
	h.Version = int16(binary.BigEndian.Uint16(frame[2:]))
	h.CorrelationID = int32(binary.BigEndian.Uint32(frame[4:]))

	// The client id comes in the same form in every header version, so it can
	// be named in the log for requests that are refused, too.
	w := walker{src: frame, at: headerFixedLen, budget: maxElements}
	idErr := w.field(&nullable)
	if idErr == nil {
		h.ClientID = nullableString(frame[headerFixedLen:w.at])
	}

	api, ok := LookupAPI(h.Key)
	if !ok {
		return h, nil, &RequestError{UnknownAPI, h, "no such API is served"}
	}
	if !api.Serves(h.Version) {
		return h, nil, &RequestError{UnsupportedVersion, h, fmt.Sprintf("versions %d to %d are served", api.Min, api.Max)}
	}
	if idErr != nil {
		return h, nil, &RequestError{MalformedHeader, h, idErr.Error()}
	}
	flexible := api.isFlexible(h.Version)
	if flexible {
		if err := w.tags(nil); err != nil {
			return h, nil, &RequestError{MalformedHeader, h, err.Error()}
		}
	}

	body := frame[w.at:]
	if err := api.body.check(body, h.Version, flexible); err != nil {
		return h, nil, &RequestError{MalformedBody, h, err.Error()}
	}
	req := kmsg.RequestForKey(h.Key)
	if req == nil {
		return h, nil, &RequestError{UnknownAPI, h, "no decoder for it"}
	}
	req.SetVersion(h.Version)
	if err := req.ReadFrom(body); err != nil {
		return h, nil, &RequestError{MalformedBody, h, err.Error()}
	}
	return h, req, nil
}

// nullableString is the string in a field of an int16 length and as many bytes.
func nullableString(f []byte) *string {
	if int16(binary.BigEndian.Uint16(f)) < 0 {
		return nil
	}
	s := string(f[2:])
	return &s
}

// AppendResponseHeader appends the header of the answer to h: the correlation
// id, then in flexible versions an empty set of tagged fields. Answers to
// ApiVersions never have the latter, as the client may not know yet what the broker speaks.
func AppendResponseHeader(dst []byte, h RequestHeader) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(h.CorrelationID))
	api, ok := LookupAPI(h.Key)
	if ok && h.Key != keyApiVersions && api.isFlexible(h.Version) {
		dst = append(dst, 0)
	}
	return dst
}
