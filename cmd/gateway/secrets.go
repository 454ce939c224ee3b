package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/sandgate-dev/sandgate/csiagent/channel"
	"github.com/sandgate-dev/sandgate/gateway/auth"
	"github.com/sandgate-dev/sandgate/warmpool/kube/keyring"
)

// resync is how often a Secret is taken again without a change: in case an earlier content could not be used for a reason outside it.
const resync = 10 * time.Minute

// watchSecret calls take with one Secret, now and whenever it changes, until ctx ends. Only that one is asked for, so that the right
// to it is enough.
func watchSecret(ctx context.Context, c kubernetes.Interface, namespace, name string, take func(*corev1.Secret)) error {
	source := toolscache.NewListWatchFromClient(c.CoreV1().RESTClient(), "secrets", namespace, fields.OneTermEqualSelector("metadata.name", name))
	informer := toolscache.NewSharedIndexInformer(source, &corev1.Secret{}, resync, nil)
	_, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if s, ok := obj.(*corev1.Secret); ok {
				take(s)
			}
		},
		UpdateFunc: func(_, obj any) {
			if s, ok := obj.(*corev1.Secret); ok {
				take(s)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watch secret %s/%s: %w", namespace, name, err)
	}
	informer.RunWithContext(ctx)
	return nil
}

const apiKeysField = "api-keys.json"

// takeAPIKeys makes a Secret's keys count. One that cannot be read changes nothing: it must not lock everybody out.
func (p *process) takeAPIKeys(s *corev1.Secret) {
	keys, err := auth.Read(s.Data[apiKeysField])
	if err != nil {
		p.log.Error("API keys cannot be read; the ones before stay in force", "secret", s.Namespace+"/"+s.Name, "field", apiKeysField, "error", err)
		return
	}
	if before := p.access.Len(); before != len(keys.Records()) {
		p.log.Info("API keys", "known", len(keys.Records()), "before", before)
	}
	p.access.Set(keys)
}

// takeIdentity makes a Secret's certificate who the gateway is to the agents.
func (p *process) takeIdentity(s *corev1.Secret) {
	id := keyring.Identity(s.Data)
	end, err := id.NotAfter()
	if err != nil {
		p.log.Error("the certificate for the agents cannot be read; the one before stays in force", "secret", s.Namespace+"/"+s.Name, "error", err)
		return
	}
	if before := p.identity.Swap(&id); before == nil || string(before.Cert) != string(id.Cert) {
		p.log.Info("certificate for the agents", "until", end)
	}
}

// client is who the gateway is to the agents now.
func (p *process) client() (channel.Identity, error) {
	if id := p.identity.Load(); id != nil {
		return *id, nil
	}
	return channel.Identity{}, errors.New("the gateway's certificate for the agents is not there yet")
}
