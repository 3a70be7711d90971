package broker

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Metadata (3) and DescribeCluster (60).
//
// There is one broker, which leads every partition. Its address depends on
// the connection: the listener's advertised address, or the one by which the
// client came in, so that a client stays on the port that it chose. A topic
// that does not exist is created when client and broker both allow it, and
// is complete in the same answer. Who asks what is allowed is told everything,
// as long as there is no access control.

// topicOperations is what everyone may do with a topic: read, write, create,
// delete, alter, describe, and describe and alter its settings, as bits by
// Kafka's numbers of operations.
const topicOperations = 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<10 | 1<<11

// node is the broker as the client of this connection is to see it.
func (c *conn) node() brokerNode {
	host, port := c.l.address(c.nc)
	return brokerNode{ID: nodeID, Host: host, Port: port}
}

func (c *conn) metadata(req *kmsg.MetadataRequest) kmsg.Response {
	r := req.ResponseKind().(*kmsg.MetadataResponse)
	node := c.node()
	mb := kmsg.NewMetadataResponseBroker()
	mb.NodeID, mb.Host, mb.Port = node.ID, node.Host, node.Port
	r.Brokers = append(r.Brokers, mb)
	r.ClusterID = kmsg.StringPtr(c.b.ClusterID())
	r.ControllerID = nodeID

	topicMetadata := func(t *topic) kmsg.MetadataResponseTopic {
		mt := c.b.topicMetadata(t)
		if req.IncludeTopicAuthorizedOperations {
			mt.AuthorizedOperations = topicOperations
		}
		return mt
	}
	if req.Topics == nil || req.Version == 0 && len(req.Topics) == 0 {
		for _, t := range c.b.topics.all() {
			r.Topics = append(r.Topics, topicMetadata(t))
		}
		return r
	}
	autoCreate := c.b.cfg.AutoCreateTopics && (req.Version < 4 || req.AllowAutoTopicCreation)
	for _, rt := range req.Topics {
		t, err := c.lookUp(rt, autoCreate)
		if err != nil {
			mt := kmsg.NewMetadataResponseTopic()
			mt.ErrorCode, _ = errorCode(err)
			mt.Topic, mt.TopicID = rt.Topic, rt.TopicID
			r.Topics = append(r.Topics, mt)
			continue
		}
		r.Topics = append(r.Topics, topicMetadata(t))
	}
	return r
}

// lookUp finds the topic that a Metadata request names, or creates it.
func (c *conn) lookUp(rt kmsg.MetadataRequestTopic, autoCreate bool) (*topic, error) {
	var name string
	if rt.Topic != nil {
		name = *rt.Topic
	}
	t, kerror := c.b.topics.find(name, rt.TopicID)
	switch {
	case kerror == nil:
		return t, nil
	case kerror == kerr.UnknownTopicID:
		return nil, kerror
	case checkTopicName(name) != nil:
		return nil, kerr.InvalidTopicException
	case !autoCreate:
		return nil, kerror
	}
	return c.autoCreate(name)
}

// autoCreate creates a topic with the broker's defaults. A client that comes
// second finds the first one's topic.
func (c *conn) autoCreate(name string) (*topic, error) {
	b := c.b
	m, err := b.newTopic(name, -1, nil)
	var t *topic
	if err == nil {
		t, err = b.topics.create(c.drain, m)
	}
	if errors.Is(err, kerr.TopicAlreadyExists) {
		t, kerror := b.topics.find(name, topicID{})
		if kerror != nil {
			return nil, kerror
		}
		return t, nil
	}
	if err != nil {
		c.log.Error().Err(err).Str("topic", name).Msg("cannot create the topic that a client asked for")
		return nil, err
	}
	c.log.Info().Str("topic", name).Int32("partitions", t.Partitions).Msg("topic created on first use")
	return t, nil
}

func (b *Broker) topicMetadata(t *topic) kmsg.MetadataResponseTopic {
	mt := kmsg.NewMetadataResponseTopic()
	mt.Topic, mt.TopicID = kmsg.StringPtr(t.Name), t.ID
	mt.Partitions = make([]kmsg.MetadataResponseTopicPartition, 0, t.Partitions)
	self := []int32{nodeID}
	for p := range t.Partitions {
		mp := kmsg.NewMetadataResponseTopicPartition()
		mp.Partition, mp.Leader, mp.LeaderEpoch = p, nodeID, b.store.Epoch()
		mp.Replicas, mp.ISR = self, self
		mt.Partitions = append(mt.Partitions, mp)
	}
	return mt
}

func (c *conn) describeCluster(req *kmsg.DescribeClusterRequest) kmsg.Response {
	r := req.ResponseKind().(*kmsg.DescribeClusterResponse)
	r.EndpointType = req.EndpointType
	if req.Version >= 1 && req.EndpointType != 1 {
		r.ErrorCode = kerr.MismatchedEndpointType.Code
		r.ErrorMessage = kmsg.StringPtr("only broker endpoints (type 1) are served")
		return r
	}
	node := c.node()
	rb := kmsg.NewDescribeClusterResponseBroker()
	rb.NodeID, rb.Host, rb.Port = node.ID, node.Host, node.Port
	r.Brokers = append(r.Brokers, rb)
	r.ClusterID, r.ControllerID = c.b.ClusterID(), nodeID
	return r
}
