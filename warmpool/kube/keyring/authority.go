package keyring

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/csiagent/channel"
)

// Fields of SecretAuthority; those of an identity are Kubernetes' own.
const (
	fieldAuthorityCert = "ca.crt"
	fieldAuthorityKey  = "ca.key"
)

// EnsureAuthority reads the authority of the publish channel, or makes it. Of several that make it one wins.
func EnsureAuthority(ctx context.Context, c client.Client, namespace string, now time.Time) (*channel.Authority, error) {
	made, err := channel.NewAuthority(now)
	if err != nil {
		return nil, err
	}
	key, err := made.Key()
	if err != nil {
		return nil, err
	}
	data, err := once(ctx, c, namespace, SecretAuthority, map[string][]byte{fieldAuthorityCert: made.Cert(), fieldAuthorityKey: key})
	if err != nil {
		return nil, err
	}
	a, err := channel.LoadAuthority(data[fieldAuthorityCert], data[fieldAuthorityKey])
	if err != nil {
		return nil, fmt.Errorf("secret %s/%s: %w", namespace, SecretAuthority, err)
	}
	return a, nil
}

// EnsureGateway makes who the gateway is to the agents, and makes it again when two thirds of its time are over or another authority
// has issued it. It returns when to look again.
func EnsureGateway(ctx context.Context, c client.Client, namespace string, a *channel.Authority, now time.Time) (time.Time, error) {
	made, err := a.Client(channel.Gateway, now)
	if err != nil {
		return time.Time{}, err
	}
	data, err := once(ctx, c, namespace, SecretGatewayClient, Fields(made))
	if err != nil {
		return time.Time{}, err
	}
	has := Identity(data)
	if has.Stale(now) || string(has.CA) != string(a.Cert()) {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: SecretGatewayClient}}
		if err := c.Get(ctx, client.ObjectKeyFromObject(s), s); err != nil {
			return time.Time{}, fmt.Errorf("renew secret %s/%s: %w", namespace, SecretGatewayClient, err)
		}
		s.Data = Fields(made)
		if err := c.Update(ctx, s); err != nil {
			return time.Time{}, fmt.Errorf("renew secret %s/%s: %w", namespace, SecretGatewayClient, err)
		}
		has = made
	}
	end, err := has.NotAfter()
	if err != nil {
		return time.Time{}, fmt.Errorf("secret %s/%s: %w", namespace, SecretGatewayClient, err)
	}
	return now.Add(end.Sub(now) / 3), nil
}

// Fields are an identity as a Secret of it holds it.
func Fields(i channel.Identity) map[string][]byte {
	return map[string][]byte{corev1.TLSCertKey: i.Cert, corev1.TLSPrivateKeyKey: i.Key, corev1.ServiceAccountRootCAKey: i.CA}
}

// Identity is what Fields has written.
func Identity(data map[string][]byte) channel.Identity {
	return channel.Identity{Cert: data[corev1.TLSCertKey], Key: data[corev1.TLSPrivateKeyKey], CA: data[corev1.ServiceAccountRootCAKey]}
}
