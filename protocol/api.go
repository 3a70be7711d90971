package protocol

// API is one request type of Kafka's protocol and the versions of it that mft serves.
type API struct {
	Key  int16
	Name string

	// Min and Max are the versions served.
	Min, Max int16

	// AdvertisedMin is the lowest version that ApiVersions tells a client. It
	// is Min but for Produce, which is advertised from 0 although 0 to 2 are
	// refused: librdkafka takes a broker without them for one that cannot
	// compress (KAFKA-18659; Kafka 4 does the same).
	AdvertisedMin int16

	flexible int16  // first version with compact lengths and tagged fields
	body     layout // of requests
}

// APIs is the one table of what mft serves, in the order of keys: dispatch and
// the answer to ApiVersions both read it. Read only.
var APIs = [...]API{
	{Key: 0, Name: "Produce", Min: 3, Max: 13, AdvertisedMin: 0, flexible: 9, body: layout{
		nullable, int16s, int32s,
		structs(text.to(12), uuids.from(13), structs(int32s, blobs)),
	}},
	{Key: 1, Name: "Fetch", Min: 4, Max: 18, AdvertisedMin: 4, flexible: 12, body: layout{
		int32s.to(14), int32s, int32s, int32s, int8s, int32s.from(7), int32s.from(7),
		structs(text.to(12), uuids.from(13), structs(
			int32s, int32s.from(9), int64s, int32s.from(12), int64s.from(5), int32s,
			tagged(0, uuids).bareTag(), tagged(1, int64s).bareTag(),
		)),
		structs(text.to(12), uuids.from(13), list(int32s)).from(7),
		text.from(11),
		tagged(0, nullable).bareTag(), tagged(1, int32s, int64s),
	}},
	{Key: 2, Name: "ListOffsets", Min: 1, Max: 11, AdvertisedMin: 1, flexible: 6, body: layout{
		int32s, int8s.from(2),
		structs(text, structs(int32s, int32s.from(4), int64s)),
		int32s.from(10),
	}},
	{Key: 3, Name: "Metadata", Min: 0, Max: 13, AdvertisedMin: 0, flexible: 9, body: layout{
		structs(uuids.from(10), text.to(9), nullable.from(10)),
		int8s.from(4), int8s.from(8).to(10), int8s.from(8),
	}},
	{Key: 8, Name: "OffsetCommit", Min: 2, Max: 10, AdvertisedMin: 2, flexible: 8, body: layout{
		text, int32s, text, nullable.from(7), int64s.to(4),
		structs(text.to(9), uuids.from(10), structs(int32s, int64s, int32s.from(6), nullable)),
	}},
	{Key: 9, Name: "OffsetFetch", Min: 1, Max: 10, AdvertisedMin: 1, flexible: 6, body: layout{
		text.to(7), structs(text, list(int32s)).to(7),
		structs(text, nullable.from(9), int32s.from(9),
			structs(text.to(9), uuids.from(10), list(int32s))).from(8),
		int8s.from(7),
	}},
	{Key: 10, Name: "FindCoordinator", Min: 0, Max: 6, AdvertisedMin: 0, flexible: 3, body: layout{
		text.to(3), int8s.from(1), list(text).from(4),
	}},
	{Key: 11, Name: "JoinGroup", Min: 2, Max: 9, AdvertisedMin: 2, flexible: 6, body: layout{
		text, int32s, int32s, text, nullable.from(5), text,
		structs(text, blobs), nullable.from(8),
	}},
	{Key: 12, Name: "Heartbeat", Min: 0, Max: 4, AdvertisedMin: 0, flexible: 4, body: layout{
		text, int32s, text, nullable.from(3),
	}},
	{Key: 13, Name: "LeaveGroup", Min: 0, Max: 5, AdvertisedMin: 0, flexible: 4, body: layout{
		text, text.to(2), structs(text, nullable, nullable.from(5)).from(3),
	}},
	{Key: 14, Name: "SyncGroup", Min: 0, Max: 5, AdvertisedMin: 0, flexible: 4, body: layout{
		text, int32s, text, nullable.from(3), nullable.from(5), nullable.from(5),
		structs(text, blobs),
	}},
	{Key: 15, Name: "DescribeGroups", Min: 0, Max: 6, AdvertisedMin: 0, flexible: 5, body: layout{
		list(text), int8s.from(3),
	}},
	{Key: 16, Name: "ListGroups", Min: 0, Max: 5, AdvertisedMin: 0, flexible: 3, body: layout{
		list(text).from(4), list(text).from(5),
	}},
	{Key: keyApiVersions, Name: "ApiVersions", Min: 0, Max: 4, AdvertisedMin: 0, flexible: 3, body: layout{
		text.from(3), text.from(3),
	}},
	{Key: 19, Name: "CreateTopics", Min: 2, Max: 7, AdvertisedMin: 2, flexible: 5, body: layout{
		structs(text, int32s, int16s, structs(int32s, list(int32s)), structs(text, nullable)),
		int32s, int8s,
	}},
	{Key: 20, Name: "DeleteTopics", Min: 1, Max: 6, AdvertisedMin: 1, flexible: 4, body: layout{
		list(text).to(5), structs(nullable, uuids).from(6), int32s,
	}},
	{Key: 21, Name: "DeleteRecords", Min: 0, Max: 2, AdvertisedMin: 0, flexible: 2, body: layout{
		structs(text, structs(int32s, int64s)), int32s,
	}},
	{Key: 22, Name: "InitProducerID", Min: 0, Max: 5, AdvertisedMin: 0, flexible: 2, body: layout{
		nullable, int32s, int64s.from(3), int16s.from(3),
	}},
	{Key: 23, Name: "OffsetForLeaderEpoch", Min: 2, Max: 4, AdvertisedMin: 2, flexible: 4, body: layout{
		int32s.from(3), structs(text, structs(int32s, int32s, int32s)),
	}},
	{Key: 32, Name: "DescribeConfigs", Min: 1, Max: 4, AdvertisedMin: 1, flexible: 4, body: layout{
		structs(int8s, text, list(text)), int8s, int8s.from(3),
	}},
	{Key: 33, Name: "AlterConfigs", Min: 0, Max: 2, AdvertisedMin: 0, flexible: 2, body: layout{
		structs(int8s, text, structs(text, nullable)), int8s,
	}},
	{Key: 37, Name: "CreatePartitions", Min: 0, Max: 3, AdvertisedMin: 0, flexible: 2, body: layout{
		structs(text, int32s, structs(list(int32s))), int32s, int8s,
	}},
	{Key: 42, Name: "DeleteGroups", Min: 0, Max: 2, AdvertisedMin: 0, flexible: 2, body: layout{
		list(text),
	}},
	{Key: 44, Name: "IncrementalAlterConfigs", Min: 0, Max: 1, AdvertisedMin: 0, flexible: 1, body: layout{
		structs(int8s, text, structs(text, int8s, nullable)), int8s,
	}},
	{Key: 47, Name: "OffsetDelete", Min: 0, Max: 0, AdvertisedMin: 0, flexible: 1, body: layout{
		text, structs(text, structs(int32s)),
	}},
	{Key: 60, Name: "DescribeCluster", Min: 0, Max: 2, AdvertisedMin: 0, flexible: 0, body: layout{
		int8s, int8s.from(1), int8s.from(2),
	}},
}

// keyApiVersions is the one API whose response header is never flexible, since
// a client reads it before it knows what the broker speaks.
const keyApiVersions = 18

// LookupAPI returns the table's row for key, false when mft does not serve it.
func LookupAPI(key int16) (API, bool) {
	for i := range APIs {
		if APIs[i].Key == key {
			return APIs[i], true
		}
	}
	return API{}, false
}

// Serves reports whether requests of this version are answered.
func (a API) Serves(version int16) bool { return version >= a.Min && version <= a.Max }

// isFlexible reports whether version has compact lengths and tagged fields.
func (a API) isFlexible(version int16) bool { return version >= a.flexible }
