package broker

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/protocol"
)

// ApiVersions (18): what is served, from the one table in protocol. It is
// answered without authentication, and for versions from the future with
// UNSUPPORTED_VERSION in a version 0 response (see refuse). The client's
// software name and version are taken as they are.

func apiVersions(version int16) *kmsg.ApiVersionsResponse {
	r := kmsg.NewPtrApiVersionsResponse()
	r.Version = version
	for _, api := range protocol.APIs {
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = api.Key, api.AdvertisedMin, api.Max
		r.ApiKeys = append(r.ApiKeys, k)
	}
	return r
}
