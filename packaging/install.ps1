# Installs arcssh from a release, for Windows:
#
#   irm https://github.com/arcssh/arcssh/releases/latest/download/install.ps1 | iex
#
# Variables:
#   ARCSSH_FOLDER      folder of the program [default: %LOCALAPPDATA%\Programs\arcssh]
#   ARCSSH_VERSION     version to install, such as 0.1.0 [default: the latest]
#   ARCSSH_RELEASES    address of the releases, for a mirror [default: https://github.com/arcssh/arcssh/releases]
& {
    $ErrorActionPreference = 'Stop'
    # Without this, Invoke-WebRequest of Windows PowerShell 5.1 takes minutes.
    $ProgressPreference = 'SilentlyContinue'
    [Net.ServicePointManager]::SecurityProtocol = [Net.ServicePointManager]::SecurityProtocol -bor [Net.SecurityProtocolType]::Tls12

    $releases = if ($env:ARCSSH_RELEASES) { $env:ARCSSH_RELEASES } else { 'https://github.com/arcssh/arcssh/releases' }
    if ($releases -notlike 'https://*') { throw "the address of the releases must begin with https://: $releases" }
    if ($env:ARCSSH_VERSION) {
        if ($env:ARCSSH_VERSION -notmatch '^[0-9A-Za-z.+-]+$') { throw "not a version: $env:ARCSSH_VERSION" }
        $source = "$releases/download/v$($env:ARCSSH_VERSION -replace '^v')"
    } else {
        $source = "$releases/latest/download"
    }
    # A 32-bit PowerShell has the architecture of Windows in the second variable.
    $machine = if ($env:PROCESSOR_ARCHITEW6432) { $env:PROCESSOR_ARCHITEW6432 } else { $env:PROCESSOR_ARCHITECTURE }
    $target = switch ($machine) {
        'AMD64' { 'x86_64-pc-windows-msvc' }
        'ARM64' { 'aarch64-pc-windows-msvc' }
        default { throw "there is no program for $machine; build it: cargo install --locked --git https://github.com/arcssh/arcssh arcssh" }
    }
    $folder = if ($env:ARCSSH_FOLDER) { $env:ARCSSH_FOLDER } else { Join-Path $env:LOCALAPPDATA 'Programs\arcssh' }

    $scratch = Join-Path ([IO.Path]::GetTempPath()) ([Guid]::NewGuid())
    New-Item -ItemType Directory $scratch | Out-Null
    try {
        $archive = "arcssh-$target.zip"
        Write-Host "install: downloading $source/$archive"
        Invoke-WebRequest -UseBasicParsing "$source/$archive" -OutFile (Join-Path $scratch $archive)
        Invoke-WebRequest -UseBasicParsing "$source/SHA256SUMS" -OutFile (Join-Path $scratch 'SHA256SUMS')
        $line = Get-Content (Join-Path $scratch 'SHA256SUMS') | Where-Object { $_ -match "^[0-9a-f]{64} [ *]$([Regex]::Escape($archive))$" }
        if (-not $line) { throw "SHA256SUMS of the release does not name $archive" }
        $expected = @($line)[0].Substring(0, 64)
        $actual = (Get-FileHash -Algorithm SHA256 (Join-Path $scratch $archive)).Hash
        if ($actual -ne $expected) { throw "$archive is not the file of the release: its SHA-256 hash is $actual, not $expected" }
        Expand-Archive (Join-Path $scratch $archive) $scratch
        New-Item -ItemType Directory -Force $folder | Out-Null
        $program = Join-Path $folder 'arcssh.exe'
        # Windows cannot replace a program that runs, but it can rename one.
        if (Test-Path $program) {
            Remove-Item "$program.old" -ErrorAction SilentlyContinue
            Move-Item $program "$program.old" -Force
        }
        Copy-Item (Join-Path $scratch "arcssh-$target\arcssh.exe") $program
        Remove-Item "$program.old" -ErrorAction SilentlyContinue
    } finally {
        Remove-Item -Recurse -Force $scratch
    }
    $version = & $program --version
    Write-Host "install: installed $program, $version"
    $path = [Environment]::GetEnvironmentVariable('Path', 'User')
    if (($path -split ';') -notcontains $folder) {
        [Environment]::SetEnvironmentVariable('Path', (@($path, $folder) -ne '' -ne $null) -join ';', 'User')
        Write-Host "install: added $folder to your PATH; open a new terminal to use it"
    }
    Write-Host 'install: next: arcssh login'
}
