package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

type moved struct {
	Objects int `json:"objects"`
}

// put stores the files of a directory as objects, by their paths in it.
func put(ctx context.Context, o options) (any, error) {
	// The store sends an object's pieces without waiting, and fails when too many are under way for a fifth of a second.
	nc, js, err := o.connect(jetstream.WithPublishAsyncMaxPending(1 << 20))
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	store, err := js.CreateOrUpdateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: o.stream, Storage: jetstream.FileStorage})
	if err != nil {
		return nil, err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(1, o.clients))
	var n moved
	err = filepath.WalkDir(o.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(o.dir, path)
		if err != nil {
			return err
		}
		n.Objects++
		group.Go(func() error {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			_, err = store.Put(ctx, jetstream.ObjectMeta{Name: filepath.ToSlash(name)}, f)
			return errors.Join(err, f.Close())
		})
		return ctx.Err()
	})
	return n, errors.Join(err, group.Wait())
}

// get writes so many objects into a directory, each as soon as it is whole; the client checks their SHA-256.
func get(ctx context.Context, o options) (any, error) {
	nc, js, err := o.connect()
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	store, err := js.CreateOrUpdateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: o.stream, Storage: jetstream.FileStorage})
	if err != nil {
		return nil, err
	}
	watch, err := store.Watch(ctx)
	if err != nil {
		return nil, err
	}
	group, getting := errgroup.WithContext(ctx)
	group.SetLimit(max(1, o.clients))
	n := moved{}
	for int64(n.Objects) < o.records {
		select {
		case info := <-watch.Updates():
			if info == nil { // all that was there at the start is told
				continue
			}
			n.Objects++
			group.Go(func() error {
				return fetch(getting, store, info.Name, filepath.Join(o.dir, filepath.FromSlash(info.Name)))
			})
		case <-getting.Done():
			return nil, group.Wait()
		}
	}
	return n, errors.Join(group.Wait(), watch.Stop())
}

func fetch(ctx context.Context, store jetstream.ObjectStore, name, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	object, err := store.Get(ctx, name)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return errors.Join(err, object.Close())
	}
	_, err = io.Copy(f, object)
	return errors.Join(err, object.Close(), f.Close())
}
