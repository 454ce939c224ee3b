package oss

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

func TestS3fsTakesEveryOptionThatIsAllowed(t *testing.T) {
	s, w := startStore(t), newWorld(t)
	w.takesEveryOption(t, s.mount, "s3fs", "us-east-1")
}

// takesEveryOption starts the client with each option that a volume may set: one that it does not know would end it, with a word about it
// that no volume's owner would understand.
func (w world) takesEveryOption(t *testing.T, volume func() mount.Mount, client, region string) {
	values := map[string]string{
		"default_acl": "private", "storage_class": "Standard", "region": region, "endpoint": region, "umask": "022", "mp_umask": "022",
		"dbglevel": "warn", "list_object_max_keys": "1000", "multipart_size": "10", "stat_cache_expire": "900", "max_stat_cache_size": "1000",
		"ensure_diskfree": "0", "max_write": "131072", "max_dirty_data": "5120", "max_readahead": "131072", "retries": "5", "connect_timeout": "5",
		"readwrite_timeout": "30", "multireq_max": "20",
	}
	for name, form := range allowed {
		t.Run(name, func(t *testing.T) {
			m := volume()
			text := name
			if form != flag {
				text += "=1"
				if v := values[name]; v != "" {
					text = name + "=" + v
				}
			}
			if name == "sigv4" {
				text += ",region=" + region
			}
			m.Attributes["otherOpts"] = "-o " + text
			src, err := w.Mount(t.Context(), m, w.dir)
			if client == "ossfs" && foreign[name] {
				require.ErrorIs(t, err, mount.ErrInvalid)
				require.ErrorContains(t, err, name)
				return
			}
			require.NoError(t, err)
			if client == "s3fs" && name == "sigv2" { // which this store does not know, and an s3fs that does not would not have asked
				require.Error(t, w.read(t, src))
				require.ErrorIs(t, w.Explain(t.Context(), src.Client), mount.ErrDenied)
			} else {
				require.NoError(t, w.read(t, src))
			}
			require.NoError(t, src.Root.Close())
			require.NoError(t, w.Unmount(soon(t, 10*time.Second), w.dir, src.Client))
		})
	}
}
