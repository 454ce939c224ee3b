package volume

import (
	"path"
	"strconv"
	"strings"

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
		switch {
		case missing(a, "bucket", "url") != "":
			return "volumeAttributes." + missing(a, "bucket", "url") + " is missing"
		case value(a, "authType") == "public":
			return ""
		case value(a, "authType") != "":
			return "volumeAttributes.authType must be empty (an access key) or public"
		case missing(s, "AccessKeyId", "AccessKeySecret") == "":
			return ""
		case missing(s, "akId", "akSecret") != "":
			return "its Secret's " + missing(s, "akId", "akSecret") + " is missing"
		}
		return ""
	},
	mount.DriverNAS: func(a, _ map[string]string) string {
		if key := missing(a, "server", "path"); key != "" {
			return "volumeAttributes." + key + " is missing"
		}
		return ""
	},
}

// missing is the first of the keys without a value, "" when all have one.
func missing(have map[string]string, keys ...string) string {
	for _, k := range keys {
		if value(have, k) == "" {
			return k
		}
	}
	return ""
}

// value finds a key in whatever letters it is written: PersistentVolumes in the field spell them in many ways.
func value(have map[string]string, key string) string {
	for k, v := range have {
		if strings.EqualFold(strings.TrimSpace(k), key) {
			return strings.TrimSpace(v)
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
