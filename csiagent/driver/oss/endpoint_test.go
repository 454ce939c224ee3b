package oss

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandgate-dev/sandgate/csiagent/mount"
)

func TestWhereAVolumeNeedsToGo(t *testing.T) {
	sts, err := STS("https://sts-vpc.example.com:8443/x")
	require.NoError(t, err)
	require.Equal(t, mount.Endpoint{Hosts: []string{"sts-vpc.example.com"}, Ports: []uint16{8443}}, sts)
	store := func(port uint16, hosts ...string) mount.Endpoint {
		return mount.Endpoint{Hosts: hosts, Ports: []uint16{port}}
	}
	for name, c := range map[string]struct {
		attributes map[string]string
		sts        mount.Endpoint
		want       []mount.Endpoint
	}{
		"a name has the bucket's beside it": {
			map[string]string{"bucket": "data", "url": "s3.example.com"}, sts, []mount.Endpoint{store(443, "s3.example.com", "data.s3.example.com")},
		},
		"an address has not": {map[string]string{"bucket": "data", "url": "http://10.1.2.3"}, sts, []mount.Endpoint{store(80, "10.1.2.3")}},
		"a role signs in somewhere": {
			map[string]string{"bucket": "data", "url": "http://10.1.2.3:9000", "AuthType": "rrsa"}, sts, []mount.Endpoint{store(9000, "10.1.2.3"), sts},
		},
		"and nowhere where there is no such service": {
			map[string]string{"bucket": "data", "url": "http://10.1.2.3:9000", "authType": "rrsa"}, mount.Endpoint{}, []mount.Endpoint{store(9000, "10.1.2.3")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Endpoints(c.sts)(mount.Mount{Attributes: c.attributes})
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
	_, err = Endpoints(sts)(mount.Mount{Attributes: map[string]string{"bucket": "data", "url": "ftp://x"}})
	require.ErrorIs(t, err, mount.ErrInvalid)
	for _, text := range []string{"", "http://sts.example.com", "https://", "https://id:CANARY@sts.example.com", "https://sts.example.com:0", "https://0x7f.1"} {
		_, err := STS(text)
		require.ErrorIs(t, err, mount.ErrInvalid, text)
		require.NotContains(t, err.Error(), "CANARY")
	}
}
