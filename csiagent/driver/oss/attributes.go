package oss

import (
	"regexp"
	"strings"
)

// honoured are the attributes by their name in small letters: PersistentVolumes in the field spell them in many ways.
var honoured = map[string]bool{
	"bucket": true, "url": true, "path": true, "otheropts": true, "fusetype": true, "authtype": true, "sigversion": true, "region": true,
	"encrypted": true, "kmskeyid": true, "rolearn": true, "oidcproviderarn": true,
}

// refused are the attributes of the vendor's driver that no client here can honour, with what to do instead.
var refused = map[string]string{
	"secretref":                  "name the Secret in nodePublishSecretRef",
	"rolename":                   "a role of the machine would be every tenant's; put a token into the volume's Secret",
	"ramrole":                    "a role of the machine would be every tenant's; put a token into the volume's Secret",
	"serviceaccountname":         "the agent's own service account is what signs in",
	"assumerolearn":              "take on the role where the volume's Secret is written",
	"externalid":                 "take on the role where the volume's Secret is written",
	"secretproviderclass":        "name the Secret in nodePublishSecretRef",
	"sandboxid":                  "put a token into the volume's Secret",
	"sandboxcredprovidername":    "put a token into the volume's Secret",
	"credentialprovidername":     "put a token into the volume's Secret",
	"agenticbucket":              "name a bucket that exists in the attribute bucket",
	"bucketspace":                "name a bucket that exists in the attribute bucket",
	"bucketspaceprefix":          "name a bucket that exists in the attribute bucket, and a directory in path",
	"volumeas":                   "name the directory in the attribute path",
	"usesharedpath":              "leave it out or false: each mount has a client of its own",
	"metricstop":                 "leave it out: no client here counts",
	"dnspolicy":                  "leave it out: a client resolves names as the sandbox's pod does",
	"runtimeclass":               "leave it out: the sandbox's template says it",
	"directassigned":             "leave it out or false: volumes are mounted into running sandboxes",
	"overlay":                    "leave it out or false: what is written goes to the bucket",
	"containernetworkfilesystem": "leave it out or false: volumes are mounted into running sandboxes",
}

// off are attributes that ask for nothing when they are false.
var off = map[string]bool{"usesharedpath": true, "directassigned": true, "overlay": true, "containernetworkfilesystem": true}

// attributes are those of m by small names. One that would not have its effect is an error, never left out.
func attributes(in map[string]string) (map[string]string, error) {
	out := make(map[string]string, len(in))
	for k, text := range in {
		name, text := strings.ToLower(strings.TrimSpace(k)), strings.TrimSpace(text)
		_, twice := out[name]
		instead, known := refused[name]
		switch {
		case strings.HasPrefix(name, "csi.storage.k8s.io/"), name == "storage.kubernetes.io/csiprovisioneridentity":
			continue // the pod's names and the provisioner's, for drivers that want them
		case off[name] && strings.EqualFold(text, "false"):
			continue
		case known:
			return nil, invalid("the attribute %s is not supported; %s", k, instead)
		case !honoured[name]:
			return nil, invalid("an object store volume has no attribute %q that is supported here", k)
		case twice:
			return nil, invalid("the attribute %q is given twice in different letters", k)
		}
		out[name] = text
	}
	return out, nil
}

// keyName is the name of a key at the store's key service, in any of its forms.
var keyName = regexp.MustCompile(`^[A-Za-z0-9:/_-]+$`)

const maxKeyName = 256

// encryption is how the store is asked to keep what is written.
func (v *volume) encryption(encrypted, key string) error {
	switch {
	case key != "" && encrypted != "kms":
		return invalid("the attribute kmsKeyId needs the attribute encrypted: kms")
	case encrypted == "":
		return nil
	case v.fuseType == "ossfs2":
		return invalid("the attribute encrypted is not one of fuseType ossfs2; use ossfs, or let the bucket encrypt")
	case encrypted == "aes256":
		v.encrypt = option{"use_sse", ""}
	case encrypted != "kms":
		return invalid("the attribute encrypted must be aes256 or kms")
	case len(key) > maxKeyName || !keyName.MatchString(key):
		return invalid("the attribute encrypted: kms needs the name of a key in the attribute kmsKeyId")
	default:
		v.encrypt = option{"use_sse", "kmsid:" + key}
	}
	return nil
}
