package nas

import (
	"slices"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// Endpoints is where the server of a volume listens. One of version 3 whose volume does not say where its mountd is is taken to have it at the
// usual port.
func Endpoints(m mount.Mount) ([]mount.Endpoint, error) {
	v, err := parse(m)
	if err != nil {
		return nil, err
	}
	out := mount.Endpoint{Hosts: []string{v.server}, Ports: v.ports()}
	if v.version == "3" && v.mountd == 0 {
		for _, p := range usual {
			if !slices.Contains(out.Ports, p) {
				out.Ports = append(out.Ports, p)
			}
		}
	}
	return []mount.Endpoint{out}, nil
}
