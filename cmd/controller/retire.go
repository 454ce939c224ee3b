package main

import (
	"context"
	"log/slog"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sandgate-dev/sandgate/warmpool/controller/retire"
)

// retireAll is `controller retire`, the hook before the chart's objects are deleted.
func retireAll(cfg config, log *slog.Logger) error {
	access, types, err := connect(cfg)
	if err != nil {
		return err
	}
	live, err := client.New(access, client.Options{Scheme: types})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	return retire.Run(ctx, retire.Config{
		Client: live, Namespace: cfg.ReleaseNamespace, Pools: cfg.Namespaces,
		Gateway: "sandgate-gateway", Controller: "sandgate-controller", Log: log,
	})
}
