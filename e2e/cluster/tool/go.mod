module github.com/sandgate-dev/sandgate/e2e/cluster/tool

go 1.24.0
