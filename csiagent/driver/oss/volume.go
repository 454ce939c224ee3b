package oss

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

// volume is what a Mount asks for, checked.
type volume struct {
	bucket   string
	prefix   string // "" or /a/b: the volume's path with the spec's subPath
	endpoint *url.URL
	fuseType string
	sigV2    bool
	region   string // of the bucket; with one, requests are signed with version 4
	public   bool
	readOnly bool
	owner    mount.Owner
	options  []option
	encrypt  option // how the store keeps what is written, none when it has no name
	keys     credentials
	role     Role // to get keys for
}

// Lengths are looked at apart: an expression that counts them takes a hundred times the memory, in each agent.
var (
	bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]+[a-z0-9]$`)
	regionName = regexp.MustCompile(`^[a-z0-9-]+$`)
)

const maxBucket, maxRegion = 63, 64

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{mount.ErrInvalid}, args...)...)
}

func parse(m mount.Mount) (volume, error) {
	a, err := attributes(m.Attributes)
	if err != nil {
		return volume{}, err
	}
	v := volume{bucket: a["bucket"], region: a["region"], owner: m.Owner, readOnly: m.ReadOnly || m.AccessMode == mount.ReadOnlyMany}
	if len(v.bucket) > maxBucket || !bucketName.MatchString(v.bucket) {
		return v, invalid("the attribute bucket must be the name of a bucket")
	}
	if v.prefix, err = prefix(a["path"], m.SubPath); err != nil {
		return v, err
	}
	if v.endpoint, err = endpoint(a["url"], v.bucket); err != nil {
		return v, err
	}
	if err := v.signature(a["sigversion"]); err != nil {
		return v, err
	}
	switch v.fuseType = a["fusetype"]; v.fuseType {
	case "":
		v.fuseType = "ossfs"
	case "ossfs", "ossfs2", "s3fs":
	default:
		return v, invalid("the attribute fuseType must be ossfs, ossfs2 or s3fs")
	}
	if err := v.encryption(a["encrypted"], a["kmskeyid"]); err != nil {
		return v, err
	}
	if err := v.allOptions(a["otheropts"], m.Options); err != nil {
		return v, err
	}
	if (a["rolearn"] != "" || a["oidcproviderarn"] != "") && a["authtype"] != "rrsa" {
		return v, invalid("the attributes roleArn and oidcProviderArn need the attribute authType: rrsa")
	}
	switch a["authtype"] {
	case "rrsa":
		v.role = Role{a["rolearn"], a["oidcproviderarn"]}
		if v.role.ARN == "" || v.role.Provider == "" || len(m.Secret) > 0 {
			return v, invalid("the attribute authType: rrsa needs the attributes roleArn and oidcProviderArn, and no Secret")
		}
		return v, nil
	case "":
		v.keys, err = keys(m.Secret)
		return v, err
	case "public":
		if v.fuseType == "ossfs2" {
			return v, invalid("the attribute authType: public is not one of fuseType ossfs2, which wants a key for every bucket; use ossfs")
		}
		v.public = true
		return v, nil
	}
	return v, invalid("the attribute authType must be empty, for the key or the token in the volume's Secret, rrsa or public; others are not supported")
}

// tokened says whether the credentials come with a token.
func (v *volume) tokened() bool { return v.keys.token != "" || v.role != (Role{}) }

// prefix joins the volume's path and the sub path to what stands behind the colon of `bucket:/prefix`. The client is confined to
// it, so that no mistake of a later step can leave it.
func prefix(path, sub string) (string, error) {
	if path != "" && path[0] != '/' {
		return "", invalid("the attribute path must start with /")
	}
	joined := strings.Trim(path, "/")
	if sub != "" {
		joined = strings.Trim(joined+"/"+sub, "/")
	}
	if joined == "" {
		return "", nil
	}
	for _, part := range strings.Split(joined, "/") {
		if part == "" || part == "." || part == ".." {
			return "", invalid("the attribute path must have no empty, . or .. component")
		}
	}
	if strings.ContainsFunc(joined, func(r rune) bool { return r < ' ' || r == 0x7f || r == ':' }) {
		return "", invalid("the attribute path must have no colon and no control character")
	}
	return "/" + joined, nil
}

func endpoint(text, bucket string) (*url.URL, error) {
	if !strings.Contains(text, "://") {
		scheme := "https://"
		if host, _, _ := strings.Cut(text, ":"); strings.Contains(host, "-internal.") {
			scheme = "http://" // the storage's own network, where nothing else is served
		}
		text = scheme + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || (u.Scheme != "http" && u.Scheme != "https"):
		return nil, invalid("the attribute url must be http:// or https:// with a host")
	case u.User != nil:
		return nil, invalid("the attribute url must not hold credentials; put them into the volume's Secret")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, invalid("the attribute url must have nothing behind the host and the port")
	case !mount.ValidHost(u.Hostname()):
		return nil, invalid("the attribute url must name a host or an address")
	case strings.HasPrefix(u.Hostname(), bucket+"."):
		return nil, invalid("the attribute url must be the endpoint without the bucket's name")
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}

// signature looks at how requests are to be signed: a region alone asks for version 4, to which it belongs.
func (v *volume) signature(version string) error {
	switch {
	case v.region != "" && (len(v.region) > maxRegion || !regionName.MatchString(v.region)):
		return invalid("the attribute region must be small letters, digits and -")
	case version == "v1" && v.region != "":
		return invalid("the attribute region is for signatures of version 4; leave out region, or sigVersion: v1")
	case version == "v1":
		v.sigV2 = true
	case version == "v4" && v.region == "":
		return invalid("the attribute sigVersion v4 needs the attribute region")
	case version != "" && version != "v4":
		return invalid("the attribute sigVersion must be v1 or v4")
	}
	return nil
}
