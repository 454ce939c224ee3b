package volume

import (
	"errors"
	"slices"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
)

// Expand fills in the placeholders of the mounts' sub-paths, now that the sandbox is known: its ID for ${SANDBOX_ID} and
// ${ACTOR_ID}, the metadata key USER_ID for ${USER_ID}. What Resolve let through does not fail here.
func Expand(ms []mount.Mount, id warmpool.ID, metadata map[string]string) ([]mount.Mount, error) {
	out := slices.Clone(ms)
	var faults mount.Faults
	for i := range out {
		sub, err := mount.Expand(out[i].SubPath, placeholders(id, metadata))
		if err != nil {
			faults = append(faults, expansionFaults(err).At(i)...)
			continue
		}
		out[i].SubPath = sub
	}
	return out, faults.Err()
}

// sample is as long as every ID is, so that a sub-path which is valid with it is valid with all.
const sample warmpool.ID = "i0000000000000000000"

// unexpandable are the faults that expanding a sub-path will have.
func unexpandable(subPath string, metadata map[string]string) mount.Faults {
	if _, err := mount.Expand(subPath, placeholders(sample, metadata)); err != nil {
		return expansionFaults(err)
	}
	return nil
}

func expansionFaults(err error) mount.Faults {
	var faults mount.Faults
	if errors.As(err, &faults) {
		return faults
	}
	return mount.Faults{{Field: mount.FieldSubPath, Reason: err.Error()}}
}

func placeholders(id warmpool.ID, metadata map[string]string) map[string]string {
	return map[string]string{
		mount.SandboxID: string(id),
		mount.ActorID:   string(id),
		mount.UserID:    metadata[mount.UserID], // the caller's word; rules by principal must not rest on it
	}
}
