package volume

import (
	"fmt"
	"path"
	"strconv"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// checks find, by driver, what can be told of a volume without its driver, so that no sandbox is spent on it. The driver has
// the last word on everything else.
var checks = map[string]func(attributes, secret map[string]string) string{
	mount.DriverTmpfs: func(a, _ map[string]string) string {
		size, err := resource.ParseQuantity(a["size"])
		if err != nil || size.Sign() <= 0 {
			return `volumeAttributes.size must be a quantity such as "64Mi"`
		}
		if n, ok := a["inodes"]; ok {
			if v, err := strconv.ParseUint(n, 10, 63); err != nil || v == 0 {
				return "volumeAttributes.inodes must be a whole number above 0"
			}
		}
		return ""
	},
	mount.DriverHostPath: func(a, _ map[string]string) string {
		if p := a["path"]; !path.IsAbs(p) || path.Clean(p) != p && path.Clean(p)+"/" != p {
			return "its path must be absolute, without . and .. in it"
		}
		return ""
	},
	mount.DriverOSS: func(a, s map[string]string) string {
		if r := required("volumeAttributes.", a, "bucket", "url"); r != "" {
			return r
		}
		return required("its Secret's ", s, "akId", "akSecret")
	},
	mount.DriverNAS: func(a, _ map[string]string) string { return required("volumeAttributes.", a, "server", "path") },
}

func required(where string, have map[string]string, keys ...string) string {
	for _, k := range keys {
		if have[k] == "" {
			return fmt.Sprintf("%s%s is missing", where, k)
		}
	}
	return ""
}

// checked adds what the driver's check finds, when nothing worse is known.
func (s source) checked() source {
	check := checks[s.Driver]
	if check == nil || len(s.reasons) > 0 {
		return s
	}
	if reason := check(s.Attributes, s.Secret); reason != "" {
		s.reasons = append(s.reasons, "the volume is set up wrongly: "+reason)
	}
	return s
}
