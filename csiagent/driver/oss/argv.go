package oss

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// secrets is where a client finds its credentials: the first descriptor that it inherits beside its output.
const secrets = "/proc/self/fd/3"

// instead are the clients that can take a client's place, in order of choice.
var instead = map[string][]string{
	"ossfs":  {"ossfs", "s3fs"},
	"ossfs2": {"ossfs2", "ossfs", "s3fs"},
	"s3fs":   {"s3fs"},
}

// choose finds an installed client for the volume.
func choose(fuseType string, dirs []string) (name, program string, err error) {
	for _, name := range instead[fuseType] {
		for _, dir := range dirs {
			program := filepath.Join(dir, name)
			if st, err := os.Stat(program); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
				return name, program, nil
			}
		}
	}
	return "", "", fmt.Errorf("none of the FUSE clients %s is installed on this machine", strings.Join(instead[fuseType], ", "))
}

// launch is how a client is started.
type launch struct {
	args []string
	file string // the text of its credentials file
	// relayed is a client that speaks to its store by way of the agent, which dials in its place; signed is one for which it signs, too.
	relayed, signed bool
	// tokens is a client that looks again at the files of its token.
	tokens bool
}

// environment is all that a client gets to see of ours.
var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}

func (l launch) environment() []string {
	if l.relayed { // whichever scheme a store redirects it to: its client would follow, to where nobody has looked
		return append([]string{"http_proxy=" + proxyURL, "all_proxy=" + proxyURL}, environment...)
	}
	return environment
}

// argv is the client's command line, and the content of its credential file.
func (v *volume) argv(client, program, dir string) (l launch, err error) {
	l.relayed = client != "ossfs2"
	l.signed = l.relayed && v.signable(client)
	l.tokens = v.tokened() && !l.relayed
	if client == "ossfs2" {
		l.file, err = v.ossfs2()
		l.args = []string{program, "mount", dir, "-c", secrets, "-f"}
		return l, err
	}
	if err := v.knownTo(client); err != nil {
		return l, err
	}
	if v.tokened() && !l.signed {
		return l, invalid("the attribute sigVersion must be v4 or empty for a Secret with a SecurityToken, with the client s3fs")
	}
	source := v.bucket
	if v.prefix != "" {
		source += ":" + v.prefix
	}
	l.args = []string{program, source, dir, "-f"}
	for _, o := range append(v.base(client), v.options...) {
		l.args = append(l.args, "-o", o.of(client).String())
	}
	switch {
	case v.public:
	case l.signed: // whatever it signs with, another signature takes its place
		l.file = v.bucket + ":sandgate:sandgate\n"
	default:
		l.file = v.bucket + ":" + v.keys.id + ":" + v.keys.secret + "\n"
	}
	return l, nil
}

// signable says whether the agent can sign the volume's requests: it knows both versions of ossfs, and one of s3fs.
func (v *volume) signable(client string) bool {
	return !v.public && (client == "ossfs" || !v.sigV2 && !v.sets("sigv2"))
}

// base are the options that stand before the volume's own.
func (v *volume) base(client string) []option {
	url := "http://" + v.endpoint.Host // TLS begins behind the relay
	out := []option{{"url", url}, {"allow_other", ""}, {"nosuid", ""}, {"nodev", ""}}
	if v.public {
		out = append(out, option{"public_bucket", "1"})
	} else {
		out = append(out, option{"passwd_file", secrets})
	}
	if v.readOnly {
		out = append(out, option{"ro", ""})
	}
	// The client's own 300 seconds of waiting for a connection are longer than anybody who reads a file has.
	defaults := []option{
		{"uid", strconv.FormatUint(uint64(v.owner.UID), 10)}, {"gid", strconv.FormatUint(uint64(v.owner.GID), 10)},
		{"umask", "022"}, {"connect_timeout", "5"}, {"readwrite_timeout", "30"},
	}
	for _, o := range defaults {
		if !v.sets(o.name) {
			out = append(out, o)
		}
	}
	if v.encrypt.name != "" {
		out = append(out, v.encrypt)
	}
	return append(out, v.dialect(client)...)
}

// dialect are the options whose names or needs differ between ossfs and s3fs.
func (v *volume) dialect(client string) (out []option) {
	// An address has no sub-domain for the bucket.
	_, err := netip.ParseAddr(v.endpoint.Hostname())
	if !v.sets("use_path_request_style") && (err == nil || v.endpoint.Hostname() == "localhost") {
		out = append(out, option{"use_path_request_style", ""})
	}
	if client == "s3fs" && v.sigV2 {
		out = append(out, option{"sigv2", ""})
	}
	if v.region != "" || client == "s3fs" && v.signable(client) {
		out = append(out, option{"sigv4", ""})
	}
	if v.region != "" {
		out = append(out, option{"region", v.region})
	}
	return out
}

// ossfs2 is the configuration file of ossfs 2, which takes none of the options of FUSE; what else the volume sets is refused, not
// dropped.
func (v *volume) ossfs2() (string, error) {
	set := map[string]string{
		"uid": strconv.FormatUint(uint64(v.owner.UID), 10), "gid": strconv.FormatUint(uint64(v.owner.GID), 10), "umask": "022",
	}
	for _, o := range v.options {
		if _, ok := set[o.name]; !ok {
			return "", invalid("the option %q is not one of fuseType ossfs2", o.name)
		}
		set[o.name] = o.value
	}
	umask, err := strconv.ParseUint(set["umask"], 8, 12)
	if err != nil {
		return "", invalid("the option umask must be octal")
	}
	lines := []option{
		{"oss_endpoint", v.endpoint.String()}, {"oss_bucket", v.bucket}, {"uid", set["uid"]}, {"gid", set["gid"]}, {"allow_other", "true"},
		{"dir_mode", fmt.Sprintf("%04o", 0o777&^umask)}, {"file_mode", fmt.Sprintf("%04o", 0o666&^umask)},
	}
	if v.prefix != "" {
		lines = append(lines, option{"oss_bucket_prefix", strings.TrimPrefix(v.prefix, "/") + "/"})
	}
	if v.region != "" { // without it ossfs 2 signs with version 1
		lines = append(lines, option{"oss_region", v.region})
	}
	if v.readOnly {
		lines = append(lines, option{"ro", "true"})
	}
	switch {
	case v.public:
	case v.tokened():
		lines = append(lines, option{"oss_sts_multi_conf_ak_file", tokensAt + "/" + fileID},
			option{"oss_sts_multi_conf_sk_file", tokensAt + "/" + fileSecret}, option{"oss_sts_multi_conf_token_file", tokensAt + "/" + fileToken})
	default:
		lines = append(lines, option{"oss_access_key_id", v.keys.id}, option{"oss_access_key_secret", v.keys.secret})
	}
	var b strings.Builder
	for _, o := range lines {
		b.WriteString("--" + o.String() + "\n")
	}
	return b.String(), nil
}
