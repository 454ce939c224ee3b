package injection

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// WatchConfig is what a Watch needs.
type WatchConfig struct {
	// Cache has the ConfigMap, and need not have any other.
	Cache cache.Cache
	// Current is kept by the Watch.
	Current *Current
	// Live has what was in force before this process began, in KeptConfigMap, for a ConfigMap that is broken by then.
	Live client.Client
	// Events are told of a ConfigMap that cannot be used, once Elected is closed: one replica is enough.
	Events  events.EventRecorder
	Elected <-chan struct{}
	Log     *slog.Logger
}

// Watch keeps a Current. It runs on every replica, for the webhook needs the configuration too.
type Watch struct {
	cfg  WatchConfig
	good chan struct{} // there is a configuration to keep
}

// NewWatch makes a Watch; Start runs it.
func NewWatch(cfg WatchConfig) (*Watch, error) {
	if cfg.Cache == nil || cfg.Current == nil || cfg.Live == nil || cfg.Events == nil || cfg.Log == nil {
		return nil, errors.New("injection: Cache, Current, Live, Events and Log are needed")
	}
	return &Watch{cfg: cfg, good: make(chan struct{}, 1)}, nil
}

// NeedLeaderElection says that every replica watches.
func (w *Watch) NeedLeaderElection() bool { return false }

// Start watches until ctx ends.
func (w *Watch) Start(ctx context.Context) error {
	informer, err := w.cfg.Cache.GetInformer(ctx, &corev1.ConfigMap{})
	if err != nil {
		return fmt.Errorf("watch ConfigMap %s: %w", name, err)
	}
	handle, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { w.look(ctx) }, UpdateFunc: func(any, any) { w.look(ctx) }, DeleteFunc: func(any) { w.look(ctx) },
	})
	if err != nil {
		return fmt.Errorf("watch ConfigMap %s: %w", name, err)
	}
	if toolscache.WaitForCacheSync(ctx.Done(), handle.HasSynced) {
		w.look(ctx) // of one that does not exist nobody tells
	}
	w.keepAll(ctx)
	return nil
}

// look takes over what the ConfigMap says now.
func (w *Watch) look(ctx context.Context) {
	var cm corev1.ConfigMap
	before := w.cfg.Current.Fault()
	err := w.cfg.Cache.Get(ctx, client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: v1alpha1.InjectionConfigMap}, &cm)
	switch {
	case apierrors.IsNotFound(err):
		w.cfg.Current.Missing()
	case err != nil:
		w.cfg.Log.Error("injection configuration cannot be read", "error", err)
		return
	default:
		_ = w.cfg.Current.Set(cm.Data) // Fault says it below
	}
	fault := w.cfg.Current.Fault()
	if fault == "" {
		select {
		case w.good <- struct{}{}:
		default:
		}
	} else if w.cfg.Current.Data() == nil {
		w.recall(ctx)
	}
	if fault == before {
		return
	}
	if fault == "" {
		w.cfg.Log.Info("injection configuration taken over", "version", cm.ResourceVersion)
		return
	}
	w.cfg.Log.Error("injection configuration cannot be used; the last good one stays in force", "error", fault)
	select {
	case <-w.cfg.Elected:
		if cm.UID != "" {
			Tell(w.cfg.Events, &cm, corev1.EventTypeWarning, "InjectionInvalid", "Parse", fault)
		}
	default:
	}
}

// Tell makes an event. Events of one reason and action are folded into one that bears the first one's text; the text is made part of the
// action, so that only the same is folded.
func Tell(r events.EventRecorder, about runtime.Object, kind, reason, action, text string) {
	const most = 1000 // an event holds 1,024
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + " ..."
	}
	sum := sha256.Sum256([]byte(text))
	r.Eventf(about, nil, kind, reason, action+"-"+hex.EncodeToString(sum[:3]), "%s", text)
}

// Valid is a gauge of whether the ConfigMap as it is now is in force.
func Valid(c *Current) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sandgate_injection_config_valid", Help: "1 when the injection ConfigMap as it is now is in force, 0 when an earlier one or none is.",
	}, func() float64 {
		if _, err := c.Config(); err != nil || c.Fault() != "" {
			return 0
		}
		return 1
	})
}
