package broker

// FindCoordinator (10) 0–6, several keys from version 4: this broker coordinates
// every group and every transactional id. Keys of share groups (type 2) are
// INVALID_REQUEST, as in a Kafka without them.

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Types of coordinator keys.
const (
	coordinatorGroup       = 0
	coordinatorTransaction = 1
)

// brokerNode is how clients reach this broker.
type brokerNode struct {
	ID   int32
	Host string
	Port int32
}

// findCoordinator answers FindCoordinator; self is this broker as the asking
// client should see it.
func (gs *groups) findCoordinator(req *kmsg.FindCoordinatorRequest, self brokerNode) *kmsg.FindCoordinatorResponse {
	resp := req.ResponseKind().(*kmsg.FindCoordinatorResponse)
	var e *kerr.Error
	switch req.CoordinatorType {
	case coordinatorGroup, coordinatorTransaction:
	default:
		e = kerr.InvalidRequest
	}
	if gs.isClosed() {
		e = kerr.CoordinatorNotAvailable
	}
	var text *string
	if e != nil {
		self = brokerNode{ID: -1, Port: -1}
		text = kmsg.StringPtr(e.Description)
	}
	if req.Version < 4 {
		resp.ErrorCode, resp.ErrorMessage = code(e), text
		resp.NodeID, resp.Host, resp.Port = self.ID, self.Host, self.Port
		return resp
	}
	for _, key := range req.CoordinatorKeys {
		resp.Coordinators = append(resp.Coordinators, kmsg.FindCoordinatorResponseCoordinator{
			Key:          key,
			NodeID:       self.ID,
			Host:         self.Host,
			Port:         self.Port,
			ErrorCode:    code(e),
			ErrorMessage: text,
		})
	}
	return resp
}
