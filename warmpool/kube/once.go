package kube

import "github.com/sandgate-dev/sandgate/warmpool"

func (b *Backend) digest(p warmpool.Principal, key string) string {
	return b.cfg.Keys.Digest("idempotency", p.Team+"\n"+p.Key+"\n"+key)
}
