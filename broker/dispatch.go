package broker

import (
	"errors"
	"net"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/protocol"
)

// begin starts a request, in the order in which requests came in on the
// connection, and returns what finishes it. Only Produce does anything here
// (it appends, and is done with the frame); everything else happens when its
// turn to answer comes, so that requests of one connection take effect in
// order. A request that waits for what others send gives back held first, the
// memory that it was granted.
//
// Every API of protocol.APIs has a case; a test holds the two together.
func (c *conn) begin(h protocol.RequestHeader, req kmsg.Request, held *lease) reply {
	switch req := req.(type) {
	case *kmsg.ProduceRequest:
		return c.produce(req)
	case *kmsg.FetchRequest:
		return func() answer { return c.fetch(req, held) }
	case *kmsg.JoinGroupRequest, *kmsg.SyncGroupRequest:
		held.release() // they wait for other members
	}
	client := clientInfo{Host: "/" + hostOf(c.nc.RemoteAddr())}
	if h.ClientID != nil {
		client.ID = *h.ClientID
	}
	return func() answer { return answer{response: c.handle(req, client)} }
}

// handle answers the requests whose answer is one message.
func (c *conn) handle(req kmsg.Request, client clientInfo) kmsg.Response {
	b, g, ctx := c.b, c.b.groups, c.ctx
	switch req := req.(type) {
	case *kmsg.ApiVersionsRequest:
		return apiVersions(req.Version)
	case *kmsg.MetadataRequest:
		return c.metadata(req)
	case *kmsg.DescribeClusterRequest:
		return c.describeCluster(req)
	case *kmsg.ListOffsetsRequest:
		return b.listOffsets(req)
	case *kmsg.OffsetForLeaderEpochRequest:
		return b.offsetForLeaderEpoch(req)
	case *kmsg.InitProducerIDRequest:
		return b.initProducerID(ctx, req)

	case *kmsg.CreateTopicsRequest:
		return b.createTopics(ctx, req)
	case *kmsg.DeleteTopicsRequest:
		return b.deleteTopics(ctx, req)
	case *kmsg.CreatePartitionsRequest:
		return b.createPartitions(ctx, req)
	case *kmsg.DescribeConfigsRequest:
		return b.describeConfigs(req)
	case *kmsg.AlterConfigsRequest:
		return b.alterConfigs(ctx, req)
	case *kmsg.IncrementalAlterConfigsRequest:
		return b.incrementalAlterConfigs(ctx, req)
	case *kmsg.DeleteRecordsRequest:
		return b.deleteRecords(ctx, req)

	case *kmsg.FindCoordinatorRequest:
		return g.findCoordinator(req, c.node())
	case *kmsg.JoinGroupRequest:
		return g.join(ctx, req, client)
	case *kmsg.SyncGroupRequest:
		return g.sync(ctx, req)
	case *kmsg.HeartbeatRequest:
		return g.heartbeat(req)
	case *kmsg.LeaveGroupRequest:
		return g.leave(req)
	case *kmsg.OffsetCommitRequest:
		return g.commit(ctx, req)
	case *kmsg.OffsetFetchRequest:
		return g.fetchOffsets(req)
	case *kmsg.DescribeGroupsRequest:
		return g.describe(req)
	case *kmsg.ListGroupsRequest:
		return g.list(req)
	case *kmsg.DeleteGroupsRequest:
		return g.delete(ctx, req)
	case *kmsg.OffsetDeleteRequest:
		return g.deleteOffsets(ctx, req)
	}
	return nil
}

// refuse answers a request that could not be read, where Kafka has an answer
// for that: ApiVersions of a version from the future is told what there is.
// All else is not answerable, and the connection closes.
func (c *conn) refuse(h protocol.RequestHeader, err error) (reply, bool) {
	var bad *protocol.RequestError
	if !errors.As(err, &bad) || bad.Kind != protocol.UnsupportedVersion || h.Key != int16(kmsg.ApiVersions) {
		return nil, false
	}
	r := apiVersions(0)
	r.ErrorCode = kerr.UnsupportedVersion.Code
	return respond(r), true
}

func hostOf(a net.Addr) string {
	if host, _, err := net.SplitHostPort(a.String()); err == nil {
		return host
	}
	return a.String()
}
