// Package injection keeps the injection configuration that is in force: what the ConfigMap said when it last made sense. It knows how to
// watch that ConfigMap, and neither pods nor pools.
package injection

import (
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/sandgate-dev/sandgate/injector"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// ErrUnknown says that nobody has looked at the ConfigMap yet: there is nothing to tell, neither good nor bad.
var ErrUnknown = errors.New("the injection configuration has not been read yet")

// ErrNone says that there never was a configuration that could be used; its text says what is wrong with the one there is.
var ErrNone = errors.New("there is no injection configuration")

// name of the ConfigMap, for messages.
const name = v1alpha1.SystemNamespace + "/" + v1alpha1.InjectionConfigMap

// Current is the configuration in force. The zero value has not looked yet. Safe for concurrent use.
type Current struct {
	mu     sync.RWMutex
	looked bool
	loaded bool
	config injector.Config
	data   map[string]string // that config was made of
	fault  string
	told   []func()
}

// Config is the configuration in force; ErrUnknown or ErrNone when there is none.
func (c *Current) Config() (injector.Config, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	switch {
	case c.loaded:
		return c.config, nil
	case !c.looked:
		return injector.Config{}, ErrUnknown
	}
	return injector.Config{}, fmt.Errorf("%w: %s", ErrNone, c.fault)
}

// Fault is what is wrong with the ConfigMap as it is now, empty when that one is in force.
func (c *Current) Fault() string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.fault
}

// Subscribe has f called whenever Config or Fault has changed. f must not wait for anything.
func (c *Current) Subscribe(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = append(c.told, f)
}

// Set takes the ConfigMap's data over, if it can be used. It returns what is wrong with it otherwise.
func (c *Current) Set(data map[string]string) error {
	config, err := injector.Parse(data)
	if err != nil {
		c.refuse(fmt.Sprintf("ConfigMap %s cannot be used: %s", name, err))
		return err
	}
	c.change(func() { c.loaded, c.config, c.data, c.fault = true, config, maps.Clone(data), "" })
	return nil
}

// Data is what the configuration in force was made of, nil when there is none.
func (c *Current) Data() map[string]string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return maps.Clone(c.data)
}

// Recall puts into force what was so in an earlier life, unless something is already. The ConfigMap's fault stays.
func (c *Current) Recall(data map[string]string) error {
	config, err := injector.Parse(data)
	if err != nil {
		return err
	}
	c.change(func() {
		if !c.loaded {
			c.loaded, c.config, c.data = true, config, maps.Clone(data)
		}
	})
	return nil
}

// Missing says that there is no ConfigMap. What it said before stays in force.
func (c *Current) Missing() { c.refuse("ConfigMap " + name + " does not exist") }

func (c *Current) refuse(fault string) { c.change(func() { c.fault = fault }) }

func (c *Current) change(f func()) {
	c.mu.Lock()
	f()
	c.looked = true
	told := c.told
	c.mu.Unlock()
	for _, tell := range told {
		tell()
	}
}
