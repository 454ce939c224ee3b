package proxy

import (
	"errors"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

// The headers by which SDKs name a sandbox and its port.
const (
	HeaderSandboxID   = "E2b-Sandbox-Id"
	HeaderSandboxPort = "E2b-Sandbox-Port"
)

// EnvdPort is the port of the daemon in every sandbox.
const EnvdPort = 49983

// target is a port of a sandbox. The id follows E2B's grammar; whether it is one of ours is not known yet.
type target struct {
	id   string
	port uint16
}

var (
	idGrammar   = regexp.MustCompile(`^[a-z0-9]{1,63}$`)
	portGrammar = regexp.MustCompile(`^[1-9][0-9]{0,4}$`)
)

// What is wrong with a request that names no target; the texts are answered as they are.
var (
	errHost        = errors.New("invalid host: want <port>-<sandbox id>.<domain>")
	errID          = errors.New("invalid sandbox ID")
	errPort        = errors.New("invalid sandbox port: want 1 to 65535")
	errHeaders     = errors.New("want exactly one " + HeaderSandboxID + " and one " + HeaderSandboxPort + " header")
	errUntrusted   = errors.New("the " + HeaderSandboxID + " header is not accepted on this host")
	errRequestForm = errors.New("invalid request target")
)

// hosts says what the names mean under which the gateway is reached.
type hosts struct {
	domains []string // lower case; sandboxes are names below them
	trusted []string // lower case; names on which the headers count, beside localhost, addresses and sandbox.<domain>
}

func newHosts(domains, trusted []string) hosts {
	var h hosts
	for _, d := range domains {
		h.domains = append(h.domains, strings.Trim(hostname(d), "."))
	}
	for _, t := range trusted {
		h.trusted = append(h.trusted, hostname(t))
	}
	return h
}

// hostname is a Host header's name, in lower case and without its port.
func hostname(host string) string {
	if name, port, err := net.SplitHostPort(host); err == nil && (port == "" || portGrammar.MatchString(port)) {
		host = name
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	return strings.ToLower(host)
}

// below returns the label of a name directly below one of the domains.
func (h hosts) below(name string) (string, bool) {
	for _, d := range h.domains {
		if label, ok := strings.CutSuffix(name, "."+d); ok {
			return label, true
		}
	}
	return "", false
}

// shared says whether a name belongs to no tenant, so that a browser's pages of one sandbox cannot speak for it: only there
// the headers choose the sandbox.
func (h hosts) shared(name string) bool {
	if name == "localhost" || net.ParseIP(name) != nil {
		return true
	}
	if label, ok := h.below(name); ok && label == "sandbox" {
		return true
	}
	for _, t := range h.trusted {
		if name == t {
			return true
		}
	}
	return false
}

// target finds where a request is to go. On a sandbox's own host the headers mean nothing.
func (h hosts) target(r *http.Request) (target, error) {
	if r.URL.Opaque != "" || r.Method == http.MethodConnect {
		return target{}, errRequestForm
	}
	name := hostname(r.Host)
	if !h.shared(name) {
		label, ok := h.below(name)
		switch {
		case ok:
			return parseLabel(label)
		case r.Header.Get(HeaderSandboxID) != "":
			return target{}, errUntrusted
		}
		return target{}, errHost
	}
	ids, ports := r.Header.Values(HeaderSandboxID), r.Header.Values(HeaderSandboxPort)
	if len(ids) != 1 || len(ports) != 1 {
		return target{}, errHeaders
	}
	return parseTarget(ports[0], ids[0])
}

// parseLabel reads `port-id` and `port-id-clientid`, as old SDKs wrote it.
func parseLabel(label string) (target, error) {
	port, id, ok := strings.Cut(label, "-")
	if !ok || strings.Contains(label, ".") {
		return target{}, errHost
	}
	return parseTarget(port, id)
}

func parseTarget(port, id string) (target, error) {
	id, _, _ = strings.Cut(id, "-")
	if !idGrammar.MatchString(id) {
		return target{}, errID
	}
	if !portGrammar.MatchString(port) {
		return target{}, errPort
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return target{}, errPort
	}
	return target{id, uint16(n)}, nil
}
