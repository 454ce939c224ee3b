package keyring

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool"
)

// once makes a Secret of data, unless there is one of that name, and returns what the one there holds.
func once(ctx context.Context, c client.Client, namespace, name string, data map[string][]byte) (map[string][]byte, error) {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, Labels: map[string]string{"app.kubernetes.io/managed-by": "sandgate"},
		},
		Data: data,
	}
	err := c.Create(ctx, s)
	if apierrors.IsAlreadyExists(err) {
		return read(ctx, c, namespace, name)
	}
	if err != nil {
		return nil, fmt.Errorf("make secret %s/%s: %w", namespace, name, err)
	}
	return s.Data, nil
}

func read(ctx context.Context, c client.Reader, namespace, name string) (map[string][]byte, error) {
	var s corev1.Secret
	err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &s)
	if apierrors.IsNotFound(err) {
		return nil, warmpool.Errorf(warmpool.NotFound, "secret %s/%s does not exist yet; the controller makes it", namespace, name)
	}
	if err != nil {
		return nil, fmt.Errorf("read secret %s/%s: %w", namespace, name, err)
	}
	return s.Data, nil
}
