// Package oss makes volumes of object store buckets by FUSE clients: ossfs and ossfs2 where they are installed, s3fs in their
// place elsewhere. A client lives apart from this process, in a session of its own and with a clean environment, and exactly as
// long as somebody has its mount. Credentials reach it through a sealed file in memory that has no name: never by its arguments
// or its environment, and nothing of them is left when it ends. Those that come with a token change while it lives: ossfs looks at
// its files again, and what s3fs asks is signed for it here. The package does not know where a volume will be attached.
package oss
