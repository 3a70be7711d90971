// Package protocol holds every byte layout that crosses a boundary of mft.
//
// Two layers live here. The lower one is the Kafka wire protocol as far as mft
// speaks it: bounded frames (frame.go), request headers and bodies (request.go),
// the one table of APIs and versions (api.go), the layouts that let a hostile
// body be refused before anything is allocated for it (layout.go), record
// batches (batch.go, record.go, builder.go, validator.go, codec.go), and the Fetch response whose
// records stay in their files (fetch.go). The upper one is how a file travels
// as records on a topic (filestream.go, digest.go, filename.go; described for
// other programs in docs/file-streams.md), and how it is encrypted end to end
// (encryption.go, encryption_key.go, encryption_xaes.go; docs/encryption.md).
//
// Bytes on disk are bytes on the wire, so nothing here re-encodes a batch:
// a Batch is a view of the frame or file it came from.
//
// Sources for the Kafka formats: https://kafka.apache.org/protocol and, for the
// record batch, https://kafka.apache.org/documentation/#recordbatch.
package protocol

// DefaultPort is the TCP port an mft broker listens on when it is not told another.
const DefaultPort = 9999
