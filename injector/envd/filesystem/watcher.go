package filesystem

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/sandgate-dev/sandgate/injector/envd/filesystem/filesystempb"
	"github.com/sandgate-dev/sandgate/injector/envd/wire"
)

// maxUnread bounds what waits for a client that polls, maxWatchers how many such clients there can be.
const (
	maxUnread   = 16384
	maxWatchers = 64
)

// asked is what both ways of watching ask for.
type asked interface {
	GetPath() string
	GetRecursive() bool
	GetIncludeEntry() bool
	GetAllowNetworkMounts() bool
}

// maxBeginning is how many watches begin at once. One of a volume that hangs keeps a thread until it answers, though its client
// has gone; a watch that has begun keeps none.
const maxBeginning = 128

// watch begins to watch what is asked for.
func (s *Service) watch(ctx context.Context, h http.Header, a asked, emit func(*filesystempb.FilesystemEvent)) (*watch, error) {
	select {
	case s.beginning <- struct{}{}:
		defer func() { <-s.beginning }()
	case <-ctx.Done():
		return nil, wire.Ended(ctx, "watch")
	}
	_, path, err := s.locate(h, a.GetPath())
	if err != nil {
		return nil, err
	}
	if _, err := directory(path); err != nil {
		return nil, err
	}
	far, err := remote(path)
	if err != nil {
		return nil, fault(err)
	}
	if far && !a.GetAllowNetworkMounts() {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("cannot watch path on network filesystem: %s (allow network mounts to watch it all the same)", path))
	}
	w, err := newWatch(path, a.GetRecursive(), a.GetIncludeEntry(), far, emit)
	if err != nil {
		return nil, fault(fmt.Errorf("watching %s: %w", path, err))
	}
	return w, nil
}

// WatchDir streams changes below a directory until the client goes.
func (s *Service) WatchDir(ctx context.Context, req *connect.Request[filesystempb.WatchDirRequest], stream *connect.ServerStream[filesystempb.WatchDirResponse]) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := make(chan *filesystempb.FilesystemEvent)
	w, err := s.watch(ctx, req.Header(), req.Msg, func(e *filesystempb.FilesystemEvent) {
		select {
		case events <- e:
		case <-ctx.Done():
		}
	})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		ended <- w.run(ctx)
	}()
	defer func() { cancel(); <-finished }()
	return relay(ctx, events, ended, wire.Keepalive(req.Header()), stream.Send)
}

// relay sends start, every event, and keepalives whenever there was none for an interval, until ctx or the watch ends.
func relay(ctx context.Context, events <-chan *filesystempb.FilesystemEvent, ended <-chan error, interval time.Duration, send func(*filesystempb.WatchDirResponse) error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	next := &filesystempb.WatchDirResponse{Event: &filesystempb.WatchDirResponse_Start{Start: &filesystempb.WatchDirResponse_StartEvent{}}}
	for {
		if err := send(next); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return wire.Ended(ctx, "watch")
		case err := <-ended:
			if ctx.Err() != nil {
				return wire.Ended(ctx, "watch")
			}
			return lost(err)
		case e := <-events:
			next = &filesystempb.WatchDirResponse{Event: &filesystempb.WatchDirResponse_Filesystem{Filesystem: e}}
			tick.Reset(interval)
		case <-tick.C:
			next = &filesystempb.WatchDirResponse{Event: &filesystempb.WatchDirResponse_Keepalive{Keepalive: &filesystempb.WatchDirResponse_KeepAlive{}}}
		}
	}
}

func lost(err error) error {
	return connect.NewError(connect.CodeInternal, fmt.Errorf("changes were lost, watch again: %w", err))
}

// mailbox keeps events for a client that comes for them.
type mailbox struct {
	stop context.CancelFunc
	done chan struct{}

	mu     sync.Mutex
	events []*filesystempb.FilesystemEvent
	err    error // watching ended; events before it were kept
}

func (m *mailbox) put(e *filesystempb.FilesystemEvent) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.events) == maxUnread {
		m.err = errors.New("nobody came for too many of them")
	}
	if m.err == nil {
		m.events = append(m.events, e)
	}
}

// take empties the mailbox. Lost events are an error for good, told once what was kept has been taken.
func (m *mailbox) take() ([]*filesystempb.FilesystemEvent, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	events := m.events
	m.events = nil
	if len(events) == 0 && m.err != nil {
		return nil, lost(m.err)
	}
	return events, nil
}

func (m *mailbox) close() {
	m.stop()
	<-m.done
}

// CreateWatcher begins to keep changes for GetWatcherEvents.
func (s *Service) CreateWatcher(begin context.Context, req *connect.Request[filesystempb.CreateWatcherRequest]) (*connect.Response[filesystempb.CreateWatcherResponse], error) {
	ctx, cancel := context.WithCancel(context.Background()) // it outlives the request; RemoveWatcher or Close ends it
	m := &mailbox{stop: cancel, done: make(chan struct{})}
	w, err := s.watch(begin, req.Header(), req.Msg, m.put)
	if err != nil {
		cancel()
		return nil, err
	}
	go func() {
		defer close(m.done)
		if err := w.run(ctx); err != nil {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.err = err
		}
	}()
	id := "w" + rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.watchers) >= maxWatchers {
		m.close()
		return nil, connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("%d watchers are open, remove some", maxWatchers))
	}
	s.watchers[id] = m
	return connect.NewResponse(&filesystempb.CreateWatcherResponse{WatcherId: id}), nil
}

// GetWatcherEvents hands over what happened since the last time.
func (s *Service) GetWatcherEvents(_ context.Context, req *connect.Request[filesystempb.GetWatcherEventsRequest]) (*connect.Response[filesystempb.GetWatcherEventsResponse], error) {
	m, err := s.mailbox(req.Msg.GetWatcherId(), false)
	if err != nil {
		return nil, err
	}
	events, err := m.take()
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&filesystempb.GetWatcherEventsResponse{Events: events}), nil
}

// RemoveWatcher ends a watcher.
func (s *Service) RemoveWatcher(_ context.Context, req *connect.Request[filesystempb.RemoveWatcherRequest]) (*connect.Response[filesystempb.RemoveWatcherResponse], error) {
	m, err := s.mailbox(req.Msg.GetWatcherId(), true)
	if err != nil {
		return nil, err
	}
	m.close()
	return connect.NewResponse(&filesystempb.RemoveWatcherResponse{}), nil
}

func (s *Service) mailbox(id string, remove bool) (*mailbox, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.watchers[id]
	if !ok {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("watcher with id %s not found", id))
	}
	if remove {
		delete(s.watchers, id)
	}
	return m, nil
}
