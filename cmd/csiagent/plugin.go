//go:build linux

package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/sandgate-dev/sandgate/csiagent/driver/csi"
	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// pluginConfig is what `csiagent serve` is told of the CSI driver on whose image it runs.
type pluginConfig struct {
	Name    string            // the driver's; none when it is empty
	Command []string          // the plugin and its arguments
	Context map[string]string // for every volume
	Env     []string
}

func (c *pluginConfig) context(text string) error {
	k, v, ok := strings.Cut(text, "=")
	if !ok || k == "" {
		return fmt.Errorf("expected key=value, such as csi.storage.k8s.io/pod.uid=$(POD_UID)")
	}
	if c.Context == nil {
		c.Context = map[string]string{}
	}
	c.Context[k] = v
	return nil
}

func (c *pluginConfig) check() error {
	switch {
	case c.Name == "" && len(c.Command) == 0:
		return nil
	case c.Name == "":
		return fmt.Errorf("unknown argument %q: a plugin's command needs -plugin and its driver's name", c.Command[0])
	case len(c.Command) == 0:
		return fmt.Errorf("-plugin %s: expected the plugin's command after --", c.Name)
	case mount.BuiltIn(c.Name):
		return fmt.Errorf("-plugin %s: the agent has a driver of that name; leave the plugin out", c.Name)
	case !csi.ValidName(c.Name):
		return fmt.Errorf("-plugin %q: expected the name of a CSI driver", c.Name)
	}
	return nil
}

// plugin is a CSI driver's node plugin as a child of this process. A nil one is none.
type plugin struct {
	*csi.Driver
	end  context.CancelFunc
	over sync.WaitGroup
}

// startPlugin starts the plugin. It has a home of its own: some write there.
func startPlugin(cfg config, log *slog.Logger) (*plugin, error) {
	c := cfg.Plugin
	if c.Name == "" {
		return nil, nil
	}
	dir, hide := filepath.Join(cfg.State, "csi"), &csi.Hide{}
	socket, home := filepath.Join(dir, "run", "csi.sock"), filepath.Join(dir, "home")
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, fmt.Errorf("plugin: %w", err)
	}
	driver, err := csi.New(csi.Config{Name: c.Name, Socket: socket, Dir: dir, Context: c.Context, Hide: hide, Logger: log})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &plugin{Driver: driver, end: cancel}
	child := &csi.Child{Command: c.Command, Env: append(c.Env[:len(c.Env):len(c.Env)], "HOME="+home), Socket: socket, Hide: hide, Logger: log}
	p.over.Go(func() {
		if err := child.Run(ctx); err != nil {
			log.Error("plugin", "error", err)
		}
	})
	p.over.Go(func() { _ = driver.Run(ctx) })
	return p, nil
}

// stop ends the plugin.
func (p *plugin) stop() {
	if p == nil {
		return
	}
	p.end()
	p.over.Wait()
	_ = p.Close()
}
