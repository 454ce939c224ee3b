// Package oss makes volumes of object store buckets by FUSE clients: ossfs and ossfs2 where they are installed, s3fs in their
// place elsewhere. A client lives apart from this process, in a session of its own and with a clean environment, and exactly as
// long as somebody has its mount. Credentials reach it through a sealed file in memory that has no name: never by its arguments
// or its environment, and nothing of them is left when it ends. They change while it lives: what s3fs and ossfs ask is signed for them
// here, and ossfs2 looks at the files of its token again. The package does not know where a volume will be attached.
package oss
