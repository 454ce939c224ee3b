package local

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
	"github.com/sandgate-dev/sandgate/warmpool"
	"github.com/sandgate-dev/sandgate/warmpool/api/v1alpha1"
)

// record is what is kept of a sandbox across a restart of this process: never a token, a secret or the value of a variable.
type record struct {
	ID        warmpool.ID        `json:"id"`
	Template  string             `json:"template"`
	Aliases   []string           `json:"aliases,omitempty"`
	Revision  string             `json:"revision"`
	Resources warmpool.Resources `json:"resources"`
	// What it was made from, as far as it matters to what can be mounted. Containers is empty in records of earlier versions.
	Runtimes    []string              `json:"runtimes,omitempty"`
	Containers  []string              `json:"containers,omitempty"`
	MemoryLimit int64                 `json:"memoryLimit,omitempty"` // bytes
	Reserved    []string              `json:"reserved,omitempty"`
	Owner       mount.Owner           `json:"owner,omitzero"`
	Namespace   string                `json:"namespace,omitempty"`
	Volumes     []v1alpha1.PoolVolume `json:"volumes,omitempty"`

	State     warmpool.State       `json:"state"`
	Process   mount.Process        `json:"process"` // the container's first
	Uplink    mount.Process        `json:"uplink"`  // the network's, zero when there is none
	Nonce     string               `json:"nonce,omitempty"`
	Principal warmpool.Principal   `json:"principal"`
	Metadata  map[string]string    `json:"metadata,omitempty"`
	Mounts    []mount.Spec         `json:"mounts,omitempty"`
	Mounted   map[string]time.Time `json:"mounted,omitempty"` // by mount id
	Timeout   time.Duration        `json:"timeout,omitempty"`
	StartedAt time.Time            `json:"startedAt,omitzero"`
	EndAt     time.Time            `json:"endAt,omitzero"`
	Internet  bool                 `json:"internet,omitempty"`
}

const recordFile = "state.json"

// save replaces the record in dir at once: a reader finds the old one or the new one. Not flushed to the disk: after a crash of
// the machine no sandbox is left that it could describe.
func (r record) save(dir string) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("state of %s: %w", r.ID, err)
	}
	next := filepath.Join(dir, recordFile+".new")
	if err := os.WriteFile(next, text, 0o600); err != nil {
		return fmt.Errorf("state of %s: %w", r.ID, err)
	}
	if err := os.Rename(next, filepath.Join(dir, recordFile)); err != nil {
		return fmt.Errorf("state of %s: %w", r.ID, err)
	}
	return nil
}

func loadRecord(dir string, id warmpool.ID) (record, error) {
	text, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return record{}, fmt.Errorf("state of %s: %w", id, err)
	}
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		return record{}, fmt.Errorf("state of %s: %w", id, err)
	}
	if r.ID != id {
		return record{}, fmt.Errorf("state of %s names another sandbox, %q", id, r.ID)
	}
	return r, nil
}

// verdict is what becomes of a sandbox that an earlier process left.
type verdict string

const (
	adoptStock   verdict = "adopt as stock"
	adoptClaimed verdict = "adopt as claimed"
	discard      verdict = "discard"
)

// judge decides by the record alone; what turns out to be dead is discarded all the same.
func judge(r record, revisions map[string]string, now time.Time) (verdict, string) {
	switch {
	case r.State == warmpool.Available && revisions[r.Template] == "":
		return discard, "its set is gone"
	case r.State == warmpool.Available && revisions[r.Template] != r.Revision:
		return discard, "its set has changed"
	case r.State == warmpool.Available:
		return adoptStock, ""
	case r.State != warmpool.Running:
		return discard, "left half-way: " + string(r.State)
	case !now.Before(r.EndAt):
		return discard, "past its deadline"
	}
	return adoptClaimed, ""
}
