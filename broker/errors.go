package broker

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"

	"mft/protocol"
	"mft/segment"
)

// requestError is a Kafka error with a text that says what happened and what
// to do.
type requestError struct {
	kafka *kerr.Error
	text  string
}

func (e *requestError) Error() string { return e.text }
func (e *requestError) Unwrap() error { return e.kafka }

func apiError(kafka *kerr.Error, text string) error { return &requestError{kafka, text} }

// damageAdvice adds to an error about damaged data how to see all of it.
func damageAdvice(err error, data string) error {
	var damage *segment.CorruptionError
	if errors.As(err, &damage) {
		return fmt.Errorf("%w: nothing was changed; 'mft-admin dump --verify %s' shows all that is damaged, and docs/troubleshooting.md what to do", err, data)
	}
	return err
}

// errorCode returns the Kafka error code that answers err, and the message
// for the response versions that carry one. A nil error is code 0.
func errorCode(err error) (int16, *string) {
	if err == nil {
		return 0, nil
	}
	text := err.Error()
	var (
		kafka   *kerr.Error
		batch   *protocol.BatchError
		storage *segment.StorageError
		damage  *segment.CorruptionError
	)
	switch {
	case errors.As(err, &kafka):
		return kafka.Code, &text
	case errors.As(err, &batch):
		return batch.Code, &text
	case errors.As(err, &damage):
		return kerr.CorruptMessage.Code, &text
	case errors.As(err, &storage), errors.Is(err, segment.ErrFailed): // clients try again, and find the broker restarted
		return kerr.KafkaStorageError.Code, &text
	case errors.Is(err, segment.ErrOutOfOrderSequence):
		return kerr.OutOfOrderSequenceNumber.Code, &text
	case errors.Is(err, segment.ErrDuplicateSequence):
		return kerr.DuplicateSequenceNumber.Code, &text
	case errors.Is(err, segment.ErrInvalidProducerEpoch):
		return kerr.InvalidProducerEpoch.Code, &text
	case errors.Is(err, segment.ErrOffsetOutOfRange):
		return kerr.OffsetOutOfRange.Code, &text
	case errors.Is(err, segment.ErrClosed):
		return kerr.UnknownTopicOrPartition.Code, &text
	}
	return kerr.UnknownServerError.Code, &text
}
