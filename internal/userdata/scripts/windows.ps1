# The rest of this script is the same on every Windows machine. It may run at
# every boot: what is there already is left as it is.
$folder = 'C:\Program Files\lite-engine'
$certs = 'C:\tmp\certs'
$binary = Join-Path $folder 'lite-engine.exe'
$envFile = Join-Path $folder '.env'
$script:number = 0
$script:now = ''
$total = 4
if ($egressProxy) { $total = 5 }

function Say([string]$text) {
    $line = "runner-boot: $text"
    Write-Host $line
    try {
        $port = New-Object System.IO.Ports.SerialPort 'COM1', 115200
        $port.Open()
        $port.WriteLine($line)
        $port.Close()
    } catch {
        Write-Verbose 'there is no serial port'
    }
}

function Step([string]$name) {
    $script:number++
    $script:now = "$($script:number)/$total $name"
    Say "step $($script:now)"
}

# OnlySystem lets nobody but the system and administrators read a path.
function OnlySystem([string]$path) {
    & icacls.exe $path /inheritance:r /grant:r '*S-1-5-18:F' '*S-1-5-32-544:F' | Out-Null
    if ($LASTEXITCODE -ne 0) { throw "the rights of $path could not be set" }
}

# Checksum gives the asset's SHA-256: the one that was configured, else that of
# a list beside the asset.
function Checksum([string]$base) {
    $known = $sha256Amd64
    if ($arch -eq 'arm64') { $known = $sha256Arm64 }
    if ($known) { return $known }
    foreach ($list in @("$base/SHA256SUMS", "$base/$asset.sha256")) {
        try {
            $answer = Invoke-WebRequest -UseBasicParsing -TimeoutSec 30 -Uri $list
        } catch {
            continue
        }
        $text = $answer.Content
        if ($text -is [byte[]]) { $text = [System.Text.Encoding]::UTF8.GetString($text) }
        foreach ($line in ($text -split "`n")) {
            $words = @($line.Trim() -split '\s+')
            if ($words[0] -match '^[0-9a-fA-F]{64}$' -and ($words.Count -eq 1 -or $words[1].TrimStart('*') -eq $asset)) {
                return $words[0].ToLower()
            }
        }
    }
    return ''
}

# Download leaves the agent in a file, whole and as its checksum says.
function Download([string]$file) {
    $why = ''
    foreach ($pause in @(0, 2, 4)) {
        Start-Sleep -Seconds $pause
        foreach ($base in $urls) {
            try {
                Invoke-WebRequest -UseBasicParsing -TimeoutSec 120 -Uri "$base/$asset" -OutFile $file
            } catch {
                $why = "no answer from $base/$asset"
                Say "step $($script:now): $why"
                continue
            }
            $want = Checksum $base
            if (-not $want) {
                $why = "no checksum for $base/${asset}: put SHA256SUMS beside it, or set RUNNER_AGENT_SHA256"
            } elseif ((Get-FileHash -Algorithm SHA256 -Path $file).Hash.ToLower() -ne $want) {
                $why = "wrong checksum of $base/$asset"
            } else {
                return
            }
            Say "step $($script:now): $why"
        }
    }
    throw $why
}

# Trust makes the proxy's authority one of the system's, and a bundle of all of
# them for programs that look for one.
function Trust([string]$folder) {
    New-Item -ItemType Directory -Force -Path $folder | Out-Null
    $file = Join-Path $folder 'ca.crt'
    [System.IO.File]::WriteAllText($file, $egressCA)
    Import-Certificate -FilePath $file -CertStoreLocation 'Cert:\LocalMachine\Root' | Out-Null
    $all = foreach ($one in (Get-ChildItem 'Cert:\LocalMachine\Root')) {
        "-----BEGIN CERTIFICATE-----`n" + [Convert]::ToBase64String($one.RawData, 'InsertLineBreaks') + "`n-----END CERTIFICATE-----"
    }
    [System.IO.File]::WriteAllLines((Join-Path $folder 'ca-bundle.crt'), [string[]]$all)
}

# ProxyAnswers asks the proxy itself, five times.
function ProxyAnswers {
    foreach ($pause in @(0, 3, 3, 3, 3)) {
        Start-Sleep -Seconds $pause
        try {
            Invoke-WebRequest -UseBasicParsing -TimeoutSec 10 -Uri "$egressProxy/healthz" | Out-Null
            return $true
        } catch {
            Say "step $($script:now): no answer from $egressProxy/healthz"
        }
    }
    return $false
}

# UseProxy sends what this script downloads through the proxy.
function UseProxy {
    $direct = foreach ($item in ($egressNoProxy -split ',')) {
        $name = $item.Trim().TrimStart('.')
        if ($name -and -not $name.Contains('/')) { '://([^/]*\.)?' + [regex]::Escape($name) + '(:\d+)?(/|$)' }
    }
    [System.Net.WebRequest]::DefaultWebProxy = New-Object System.Net.WebProxy $egressProxy, $true, ([string[]]@($direct))
}

try {
    Step 'check the machine'
    $arch = 'amd64'
    if ($env:PROCESSOR_ARCHITECTURE -eq 'ARM64') { $arch = 'arm64' }
    $asset = "lite-engine-windows-$arch.exe"
    New-Item -ItemType Directory -Force -Path $folder, $certs | Out-Null
    OnlySystem $certs
    if (-not (Test-Path (Join-Path $certs 'server-key.pem'))) {
        $files = @{ 'ca-cert.pem' = $caCert; 'server-cert.pem' = $cert; 'server-key.pem' = $key }
        foreach ($name in $files.Keys) {
            $path = Join-Path $certs $name
            [System.IO.File]::WriteAllText($path, $files[$name])
            OnlySystem $path
        }
    }
    $forever = New-ScheduledTaskSettingsSet -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries -StartWhenAvailable -ExecutionTimeLimit ([TimeSpan]::Zero) -RestartCount 999 -RestartInterval (New-TimeSpan -Minutes 1)
    if ($deadline) {
        $at = [DateTime]::Parse($deadline, $null, [System.Globalization.DateTimeStyles]::RoundtripKind).ToLocalTime()
        Register-ScheduledTask -Force -TaskName 'runner-deadline' -User 'SYSTEM' -RunLevel Highest -Settings $forever -Trigger (New-ScheduledTaskTrigger -Once -At $at) -Action (New-ScheduledTaskAction -Execute 'shutdown.exe' -Argument '/s /f /t 0') | Out-Null
    }

    if ($egressProxy) {
        Step 'reach the egress proxy'
        if ($egressCA) { Trust 'C:\harness-certs' }
        if (-not (ProxyAnswers)) {
            throw "no answer from $egressProxy/healthz in five tries: let machines of this network reach the proxy, or correct proxy_url in the pool file"
        }
        UseProxy
    }

    Step 'download agent'
    if (-not (Test-Path $binary)) {
        Download "$binary.new"
        Move-Item -Force "$binary.new" $binary
    }

    Step 'open port 9079'
    if (-not (Get-NetFirewallRule -Name 'runner-agent' -ErrorAction SilentlyContinue)) {
        New-NetFirewallRule -Name 'runner-agent' -DisplayName 'Agent of a build machine' -Direction Inbound -Protocol TCP -LocalPort 9079 -Action Allow | Out-Null
    }

    Step 'start agent'
    $lines = @(
        "CLOUD_DRIVER=$driver",
        'SERVER_CERT_FILE=C:/tmp/certs/server-cert.pem',
        'SERVER_KEY_FILE=C:/tmp/certs/server-key.pem',
        'CLIENT_CERT_FILE=C:/tmp/certs/ca-cert.pem'
    )
    [System.IO.File]::WriteAllLines($envFile, $lines)
    # The agent is no service by itself: a task of the system's that begins with
    # the machine and begins again when it ends is what runs any program.
    $run = '/c ""' + $binary + '" server --env-file "' + $envFile + '" 1>>"' + $folder + '\log.out" 2>>"' + $folder + '\log.err""'
    Register-ScheduledTask -Force -TaskName 'runner-agent' -User 'SYSTEM' -RunLevel Highest -Settings $forever -Trigger (New-ScheduledTaskTrigger -AtStartup) -Action (New-ScheduledTaskAction -Execute 'cmd.exe' -Argument $run -WorkingDirectory $folder) | Out-Null
    Start-ScheduledTask -TaskName 'runner-agent'
    Say 'done'
} catch {
    Say "step $($script:now): failed: $($_.Exception.Message)"
    exit 1
}
